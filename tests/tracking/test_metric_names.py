"""One table of names: everything that a run measures has a group, nothing is logged twice, old names are read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.report.comparison import metric_rows
from fasttrain.tracking import names
from fasttrain.tracking.names import epoch_metrics, final_metrics, old_epoch_metrics, old_final_metrics
from fasttrain.tracking.record import RECORD, Record
from fasttrain.tracking.runs import find_runs, list_runs, run_of_folder
from fasttrain.tracking.tracker import Tracker
from fasttrain.training.result import RECORDED

GROUPS = ("train", "val", "val_best", "test", "speed")
HISTORY = [
    {"epoch": epoch, "train_loss": 1.0, "val_loss": 1 / epoch, "val_top1": 0.2 * epoch, "img/s": 50.0, "improved": True}
    for epoch in (1, 2)
]


def evaluation(split: str, **more: Any) -> dict[str, Any]:
    own = {"split": split, "best_epoch": 2, "monitor": "val_loss", "best_epoch_val_loss": 0.5, "training_seconds": 9.0}
    figures = {"samples": 90, "loss": None, "top1": 0.3, "top3": 1.0, "top5": 1.0, "accuracy": 0.3}
    return {**own, **figures, "weighted_recall": 0.3, "macro_f1": 0.2, "classes": [{}, {}, {}], **more}


def test_every_field_of_an_epoch_has_a_group_or_is_no_metric() -> None:
    assert names.EPOCH.keys() | names.NOT_LOGGED == RECORDED
    assert {name.partition("/")[0] for name in names.EPOCH.values()} == {"train", "val", "speed"}
    assert epoch_metrics({"epoch": 1, "improved": True, "phase": "head", "norm": 2, "l2": 0.1}) == {
        "norm": 2.0,
        "train/l2": 0.1,
    }


@pytest.mark.parametrize("kind", [Evaluation, SetEvaluation])
def test_every_figure_of_an_evaluation_is_logged_but_constants_and_doubles(kind: type) -> None:
    others = {"samples", "classes", "confusion_matrix", "chance", "accuracy", "weighted_recall"}
    others |= {"top1_interval", "map_interval"}
    assert {each.name for each in fields(kind)} - others <= set(names.FINAL)


def test_the_final_metrics_are_of_the_weights_that_are_kept() -> None:
    of_test = final_metrics(evaluation("test", averaged_val_loss=0.4))
    assert math.isnan(of_test.pop("test/loss"))
    assert of_test == {
        "val_best/epoch": 2,
        "val_best/loss": 0.4,
        "speed/training_seconds": 9.0,
        "test/top1": 0.3,
        "test/macro_f1": 0.2,
    }
    of_val = final_metrics(evaluation("val", loss=0.45, classes=[{}] * 4))
    assert (of_val["val_best/loss"], of_val["val_best/top1"], of_val["val_best/top3"]) == (0.45, 0.3, 1.0)
    assert "val_best/top5" not in of_val, "1 by definition"


@pytest.mark.slow
def test_a_run_of_an_older_version_is_read_listed_and_compared_like_a_new_one(here: Path) -> None:
    for name, of_epoch, of_end in (
        ("old", old_epoch_metrics, old_final_metrics),
        ("new", epoch_metrics, final_metrics),
    ):
        with Tracker.start("food", name, {"model": "m"}, folder=here / "runs" / name) as run:
            for record in HISTORY:
                run.log_metrics(of_epoch(record), record["epoch"])
            run.log_metrics(of_end(evaluation("test")), 2)
    assert [run.name for run in list_runs(experiment="food", sort="test/top1")] == ["new", "old"]
    old, new = find_runs(["old", "new"])
    assert old.curves == new.curves and old.curves["val/loss"] == {1: 1.0, 2: 0.5}
    assert old.seconds == new.seconds == 9.0
    rows = {row.name: row.values for row in metric_rows([old, new])}
    assert rows["test/top1"] == (0.3, 0.3) and rows["val_best/epoch"] == (2, 2)
    assert rows["speed/images_per_second"] == (50.0, 50.0)
    assert "val_best/loss" not in rows, "the best epoch's val/loss again"


def test_a_run_keeps_the_names_that_it_began_with(tmp_path: Path) -> None:
    """Else every run that an older version has delivered would wait to be delivered once more."""
    (tmp_path / "history.json").write_text(json.dumps(HISTORY))
    record = Record(tmp_path / RECORD, "u", "e", "r", {}, {})
    record.save()
    assert "val/loss" in _logged(tmp_path)
    plain = json.loads((tmp_path / RECORD).read_text())
    del plain["old_names"]  # an older version wrote no such key
    (tmp_path / RECORD).write_text(json.dumps(plain))
    assert {"val_loss", "img/s", "improved"} <= _logged(tmp_path)
    assert run_of_folder(tmp_path).curves["val/loss"] == {1: 1.0, 2: 0.5}


def _logged(folder: Path) -> set[str]:
    record = Record.load(folder / RECORD)
    assert record is not None
    return {name for entry in record.entries() if entry.kind == "metrics" for name in entry.value["metrics"]}


def test_the_docs_list_every_name() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/how-to/tracking.md").read_text("utf-8")
    listed = set(re.findall(rf"`((?:{'|'.join(GROUPS)})/\w+)`", page))
    final = {f"{group}/{name}" for group in ("val_best", "test") for name in names.FINAL}
    assert listed == {*names.EPOCH.values(), *final, "val_best/epoch", "speed/training_seconds"}
