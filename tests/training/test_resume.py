"""A run that was killed, stopped or interrupted ends with the same weights as one left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from fasttrain.checkpoint.file import save_checkpoint
from fasttrain.checkpoint.folder import checkpoint_path, find_checkpoint
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.reader import ShardSet
from tests.support.patience import PATIENCE
from tests.support.runs import last_state, paused, start_run

# Dropout, so that a lost generator state shows; an odd save_every, so that a kill falls in mid-epoch.
EXACT = {"deterministic": True, "drop_rate": 0.2, "save_every": 1, "ema_decay": 0.9, "track": False, "batch_size": 8}
EXACT |= {"hflip": 0.3, "vflip": 0.5, "eval_size": 64, "resize_mode": "letterbox"}


def only_run(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def undisturbed(shard_folder, tmp_path_factory):
    """How a run under torchvision ends that nobody disturbed; in a Python of its own, whose sets have another order."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start_run(shard_folder, folder, cold=True, **EXACT))
    return last_state(only_run(folder / "runs"))


@pytest.fixture(scope="module")
def killed(shard_folder, tmp_path_factory):
    """Return the folder of a run under torchvision that was killed after its third step."""
    folder = tmp_path_factory.mktemp("killed")
    process = start_run(shard_folder, folder, pause_at=3, **EXACT)
    with paused(process, folder):
        process.kill()
        process.wait()
    return folder / "runs"


def assert_same_end(run: Path, expected: dict) -> None:
    state = last_state(run)
    assert (state["step"], state["epoch"]) == (expected["step"], expected["epoch"])
    for part in ("model", "ema"):
        for name, tensor in expected[part].items():
            assert torch.equal(state[part][name], tensor), f"{part}.{name} differs"
    for ours, theirs in zip(state["history"], expected["history"], strict=True):
        assert ours["train_loss"] == theirs["train_loss"] and ours["val_loss"] == theirs["val_loss"]


@pytest.mark.parametrize(
    "loader", [pytest.param(name, marks=pytest.mark.full if name == "ffcv" else ()) for name in LOADERS]
)
@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed(loader, start, tmp_path, shard_folder):
    if reason := loader_class(loader).unavailable(ShardSet.open(shard_folder), "cpu"):
        pytest.skip(reason)
    alone = tmp_path / "alone"
    finish(start(out=alone, loader=loader, workers=1, figures=False, **EXACT))
    expected = last_state(only_run(alone))
    runs = tmp_path / "killed"
    process = start(out=runs, loader=loader, workers=1, pause_at=3, **EXACT)
    with paused(process, tmp_path):
        process.kill()
        process.wait()
    stopped = last_state(only_run(runs))
    assert stopped["step"] == 3 < expected["step"] // 2, "in mid-epoch"
    assert stopped["loader"]["samples"] == 3 * 8
    output = finish(start(out=runs, resume="auto", loader=loader, workers=1, figures=False, **EXACT))
    assert "resuming" in output
    assert_same_end(only_run(runs), expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.slow
def test_stopped_politely_and_resumed_from_its_folder(number, code, start, tmp_path, undisturbed):
    runs = tmp_path / "stopped"
    process = start(out=runs, pause_at=2, cold=number == signal.SIGTERM, **EXACT)
    with paused(process, tmp_path):
        process.send_signal(number)
    output = finish(process, code)
    assert "--resume" in output and "Traceback" not in output
    folder = only_run(runs)
    finish(start(bare=True, resume=folder))  # every other setting comes from the checkpoint
    assert_same_end(folder, undisturbed)


@pytest.mark.slow
def test_auto_with_nothing_to_resume_starts_afresh(start, tmp_path):
    output = finish(start(resume="auto", epochs=1, limit_batches=1, track=False, figures=False))
    assert "no unfinished run to resume" in output
    output = finish(start(resume="auto", epochs=1, limit_batches=1, track=False, figures=False))
    assert "no unfinished run to resume" in output, "a finished run is not resumed"
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(start, tmp_path):
    finish(start(epochs=1, limit_batches=1, track=False, figures=False))
    folder = next((tmp_path / "runs").iterdir())
    output = finish(start(resume=folder, model="mobilenetv2_050"), 2)
    assert "mobilenetv2_035" in output and "Traceback" not in output


def test_auto_takes_the_newest_unfinished_run(tmp_path):
    for second, name in enumerate(("a", "b", "c")):
        path = checkpoint_path(tmp_path / name, 9 if name == "a" else 3)
        save_checkpoint(path, {})
        os.utime(path, (second, second))
    (tmp_path / "c" / "evaluation.json").write_text("{}")
    assert find_checkpoint("auto", tmp_path).path == checkpoint_path(tmp_path / "b", 3)


@pytest.mark.parametrize("other", [name for name in LOADERS if name != "torchvision"])
@pytest.mark.slow
def test_a_run_goes_on_with_another_loader(other, start, tmp_path, shard_folder, undisturbed, request):
    """Killed under torchvision, resumed under another: no sample twice, none left out, nearly the same weights."""
    if reason := loader_class(other).unavailable(ShardSet.open(shard_folder), "cpu"):
        pytest.skip(reason)
    runs = shutil.copytree(request.getfixturevalue("killed"), tmp_path / "killed")
    finish(start(bare=True, out=runs, resume="auto", loader=other, figures=False))
    state = last_state(only_run(runs))
    assert (state["step"], state["epoch"]) == (undisturbed["step"], 2)
    assert state["history"][0]["train_loss"] == pytest.approx(undisturbed["history"][0]["train_loss"], rel=0.3)
