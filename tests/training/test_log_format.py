"""`--log-format json`: each line of a real run is an object, and its numbers are the history's."""

from __future__ import annotations

import json
import math
import signal

import pytest
from rich.console import Console
from rich.text import Text

from fasttrain.terminal import JsonConsole, tell
from tests.support.patience import PATIENCE
from tests.support.runs import paused


def events(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.slow
def test_a_run_in_json(start, tmp_path):
    process = start(log_format="json", limit_batches=2, track=False)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    told = events(output)
    names = [each["event"] for each in told]
    assert names[0] == "run" and names[-1] == "finished" and names.count("epoch") == 2
    (folder,) = (tmp_path / "runs").iterdir()
    history = json.loads((folder / "history.json").read_text())
    epochs = [each for each in told if each["event"] == "epoch"]
    assert [each["val_loss"] for each in epochs] == [record["val_loss"] for record in history]
    (settings,) = (each for each in told if each["event"] == "settings")
    assert settings["learning_rate"] == 0.003 and settings["model"] == "mobilenetv2_035"
    assert told[-1]["top1"] == json.loads((folder / "evaluation.json").read_text())["top1"]
    for line in ("loader: torchvision", "train 78, val 18 photographs"):
        assert any(line in each.get("text", "") for each in told), "what is prose comes as messages"
    assert all("time" in each for each in told)


@pytest.mark.slow
def test_a_stop_is_an_event_too(start, tmp_path):
    process = start(log_format="json", save_every=1, pause_at=2, track=False)
    with paused(process, tmp_path):
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    (stopped,) = (json.loads(line) for line in output.splitlines() if '"stopped"' in line)
    assert stopped["signal"] == "SIGTERM" and stopped["folder"].startswith(str(tmp_path))


def test_numbers_that_json_has_not_and_styles(capsys):
    console = JsonConsole()
    console.print(Text.assemble(("amp: ", "yellow"), "no bf16"), "in runs[1]")
    tell(console, "epoch", {"loss": math.nan, "scale": (0.08, 1.0)}, "prose")
    message, epoch = events(capsys.readouterr().out)
    assert message["text"] == "amp: no bf16 in runs[1]"
    assert epoch["loss"] is None and epoch["scale"] == [0.08, 1.0] and "prose" not in epoch.values()
    tell(Console(width=80), "epoch", {"loss": 1.0}, "prose")
    assert capsys.readouterr().out == "prose\n"
