"""The lines that a run prints fit 80 columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console, RenderableType

from fasttrain.config.monitor import MONITORS
from fasttrain.evaluation.metrics import ClassificationMeter
from fasttrain.report.summary import duration, epoch_line, evaluation_table, run_summary, summary_dict
from fasttrain.tracking.tracker import NullTracker
from fasttrain.training.result import TrainResult

NAMES = [f"grilled_cheese_sandwich_with_everything_{number}" for number in range(8)]


def record(**changes: Any) -> dict[str, Any]:
    return {
        "epoch": 3,
        "train_loss": 1.23456,
        "train_top1": 0.61234,
        "val_loss": 1.10121,
        "val_top1": 0.65432,
        "learning_rate": 1e-3,
        "improved": True,
        "epoch_seconds": 75.2,
        "img/s": 1234.5,
        "wait_share": 0.031,
        **changes,
    }


class Tracked(NullTracker):
    uri = "sqlite:////home/somebody/with/a/rather/long/path/to/projects/food/fasttrain/mlflow.db"

    def wait_for_run(self, timeout: float = 30.0) -> str | None:
        return "0123456789abcdef0123456789abcdef"


@pytest.fixture
def result(tmp_path: Path) -> TrainResult:
    meter = ClassificationMeter(8)
    labels = torch.arange(400) % 8
    logits = torch.nn.functional.one_hot(labels, 8).float()
    logits[:20] = logits[:20].roll(1, 0)
    meter.update(logits, labels, torch.tensor(123.0))
    return TrainResult(
        folder=Path("runs/20261124-201509-mobilenetv2_100"),
        history=[record(epoch=1, improved=False), record(epoch=2, val_top1=0.7), record(epoch=3)],
        best_epoch=2,
        evaluation=meter.compute(NAMES),
        seconds=3725.0,
        mlflow_run_id=None,
        monitor="top1",
        total_seconds=3790.0,
    )


def shown(what: RenderableType) -> str:
    console = Console(width=80, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(what)
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    return text


@pytest.mark.parametrize("epochs", [3, 100])
def test_an_epoch_is_two_lines_that_fit(epochs: int) -> None:
    text = shown(epoch_line(record(), epochs=epochs))
    assert len(text.splitlines()) == 2
    for said in (f"3/{epochs}", "1.2346", "61.23%", "1.1012", "65.43%", "1.00e-03", "best val loss", "1 min 15 s"):
        assert said in text
    assert "1,234 img/s" in text
    assert "data wait 3.1%" in text
    assert "no better" in shown(epoch_line(record(improved=False), epochs=epochs))
    assert "best val acc" in shown(epoch_line(record(), epochs=epochs, monitored=MONITORS["top1"].short))


def test_an_epoch_on_a_gpu_at_its_widest_fits() -> None:
    wide = record(epoch_seconds=7199, cuda_peak_bytes=75 * 2**30, train_top1=1.0, val_top1=1.0, **{"img/s": 99999})
    text = shown(epoch_line({**wide, "epoch": 100, "wait_share": 1.0}, epochs=100))
    assert len(text.splitlines()) == 2
    assert "75 GiB" in text


def test_the_summary_says_all_that_it_should(result: Any) -> None:
    artifacts = [result.folder / "model.safetensors", result.folder / "evaluation.json"]
    text = shown(run_summary(result, split="test", artifacts=artifacts, tracker=Tracked()))
    for said in (
        "2 of 3, highest validation top-1",
        "70.00%",
        "time        1 h 03 min, of which training 1 h 02 min (1,234 img/s)",
        "top-1 / 3 / 5",
        "F1 0.9",
        "test split, 400",
    ):
        assert said in text
    for said in ("model.safetensors", "and 1 more file", str(result.folder), "0123456789abcdef0123456789abcdef"):
        assert said in text
    assert "evaluation.json" not in text and "fasttrain ui" in text
    joined = "".join(text.split())
    assert Tracked.uri in joined
    assert text.count("grilled_cheese") == 6, "five worst classes and the majority class"
    assert f"12.50%,always{NAMES[0]},themostfrequentclasshere" in joined
    assert "report.html" not in text and f"--checkpoint{result.folder}PHOTOGRAPH" in joined
    page = result.folder / "report.html"
    page_told = shown(run_summary(result, split="test", artifacts=[page], tracker=NullTracker()))
    assert f"look{page}" in "".join(page_told.split())
    assert "MLflow" not in shown(run_summary(result, split="val", artifacts=[], tracker=NullTracker()))


def test_the_fits_of_a_probe_are_tries(result: Any) -> None:
    fitted = record(l2=0.1)
    assert shown(epoch_line(fitted, epochs=7)).startswith("try 3/7  train loss")
    assert shown(epoch_line(record(l2=0.1, phase="head"), epochs=7)).startswith("epoch 3/7 head")
    probe = replace(result, history=[{**each, "l2": 0.1} for each in result.history], total_seconds=None)
    text = shown(run_summary(probe, split="val", artifacts=[], tracker=NullTracker()))
    assert "best try    2 of 3" in text and "time        training 1 h 02 min (1,234 img/s)" in text


def test_a_warning_is_told_to_its_end(result: Any) -> None:
    """A line that is not wrapped, as at the end of a run, is not cut either."""
    warning = f"Top-1 6.8 % is worse than always answering pizza (22.0 %). Likely reasons: {'a reason; ' * 9}the last"
    summary = run_summary(result, split="test", artifacts=[], tracker=NullTracker(), warning=warning)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(summary, soft_wrap=True)
    assert warning in console.export_text()
    assert "always answering" not in shown(run_summary(result, split="test", artifacts=[], tracker=NullTracker()))


def test_the_summary_as_plain_data(result: Any) -> None:
    artifacts = [result.folder / "model.safetensors"]
    values = json.loads(json.dumps(summary_dict(result, split="val", artifacts=artifacts, tracker=Tracked())))
    assert (values["best_epoch"], values["monitor"]) == (2, "top1")
    assert values["best"]["val_top1"] == 0.7
    assert values["epochs"] == 3
    assert values["training_seconds"] == 3725.0
    assert values["img/s"] == pytest.approx(1234.5)
    assert values["evaluation"]["top1"] == result.evaluation.top1
    assert len(values["worst_classes"]) == 5
    assert values["artifacts"]["model.safetensors"] == str(artifacts[0].resolve())
    assert values["mlflow"] == {"run_id": "0123456789abcdef0123456789abcdef", "store": Tracked.uri}


def test_names_are_no_markup(result: Any) -> None:
    meter = ClassificationMeter(2)
    meter.update(torch.eye(2), torch.tensor([1, 1]))
    assert "[red]dish[/red]" in shown(evaluation_table(meter.compute(["a", "[red]dish[/red]"]), split="val"))


@pytest.mark.parametrize(
    ("seconds", "said"), [(8.34, "8.3 s"), (249, "4 min 09 s"), (7500, "2 h 05 min"), (59.99, "1 min 00 s")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
