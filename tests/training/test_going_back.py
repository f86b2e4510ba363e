"""A run that goes back to an earlier checkpoint, or is extended after its end: what its folder holds belongs to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fasttrain import evaluate, train
from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.folder import checkpoints_of, newest_unfinished
from fasttrain.commands import finish as finish_module
from fasttrain.config.load import read_toml
from fasttrain.errors import Stopped
from tests.support.runs import SMALL, killed_after, last_state

RUN = {**SMALL, "model": "test_convnext", "image_size": 32, "batch_size": 16, "epochs": 4, "learning_rate": 0.0005}
RUN |= {"track": False, "keep": 9, "early_stopping": 0, "scheduler": "constant", "deterministic": True}
WORSE = {"rand_augment": "n4-m10", "random_erasing": 1.0, "mixup": 20.0, "learning_rate": 0.3}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than the training."""

    def write(result: Any, predictions: Any, folder: Any, *_: Any) -> None:
        folder.report.write_text(f"{len(result.history)} epochs")

    monkeypatch.setattr(finish_module, "_write_pictures", write)


@pytest.fixture(scope="module")
def ended(shard_folder, tmp_path_factory) -> Path:
    """The folder of a run of four epochs, with all its checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish_module, "_write_pictures", lambda *given: given[2].report.write_text("4 epochs"))
        return train(data=shard_folder, out=tmp_path_factory.mktemp("ended"), **RUN).folder


@pytest.fixture
def run(ended, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(ended, tmp_path / "runs" / ended.name))


def checkpoint_of_epoch(run: Path, epoch: int) -> Path:
    return next(path for path in checkpoints_of(run) if load_checkpoint(path)["epoch"] == epoch)


def assert_of_one_branch(run: Path, shards: Path, epochs: int, best: int | None = None) -> None:
    """The result, the weights and the history are of the same epochs, and speak of the best of them."""
    history = json.loads((run / "history.json").read_text())
    assert [each["epoch"] for each in history] == list(range(1, epochs + 1))
    said = json.loads((run / "evaluation.json").read_text())
    assert said["best_epoch"] == min(history, key=lambda each: each["val_loss"])["epoch"]
    assert best is None or said["best_epoch"] == best
    assert said["loss"] == pytest.approx(history[said["best_epoch"] - 1]["val_loss"], abs=1e-6)
    again = evaluate(run, shards, split="val", loader="torchvision", workers=0, device="cpu")
    assert again.loss == pytest.approx(said["loss"], abs=1e-6)
    assert (run / "report.html").read_text() == f"{epochs} epochs"
    assert newest_unfinished(run.parent) is None


@pytest.mark.slow
def test_the_best_epoch_is_one_of_this_branch(run, shard_folder):
    before = last_state(run)
    train(resume=str(checkpoint_of_epoch(run, 1)), epochs=3, **WORSE)
    assert_of_one_branch(run, shard_folder, epochs=3, best=1)
    assert last_state(run)["best"] is not None, "it is not the last epoch's"
    assert last_state(run)["step"] < before["step"]


@pytest.mark.slow
def test_going_on_in_the_same_way_ends_in_the_same_way(run, ended, shard_folder):
    train(resume=str(checkpoint_of_epoch(run, 2)))
    assert_of_one_branch(run, shard_folder, epochs=4)
    ours, theirs = (load_file(each / "model.safetensors") for each in (run, ended))
    assert all(torch.equal(each, theirs[name]) for name, each in ours.items())


@pytest.mark.slow
def test_killed_right_after_it_went_back(run, shard_folder):
    """`auto` goes on from there, not from the later steps that are gone."""
    with killed_after(lambda state: state["epoch"] == 1):
        train(resume=str(checkpoint_of_epoch(run, 1)), epochs=3, **WORSE)
    assert [load_checkpoint(path)["epoch"] for path in checkpoints_of(run)] == [1]
    assert not (run / "evaluation.json").exists() and not (run / "report.html").exists()
    result = train(resume="auto", out=run.parent)
    assert result.folder == run
    assert_of_one_branch(run, shard_folder, epochs=3, best=1)


@pytest.mark.parametrize("damage", ["another epoch's", "torn", "absent"])
def test_weights_that_are_not_the_checkpoints_are_replaced(damage, run, shard_folder):
    """A kill between `model.safetensors` and the checkpoint leaves such weights."""
    weights = run / "model.safetensors"
    if damage == "another epoch's":
        save_file({name: each + 1 for name, each in load_file(weights).items()}, weights)
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:99])
    else:
        weights.unlink()
    (run / "evaluation.json").unlink()
    train(resume="auto", out=run.parent)
    assert_of_one_branch(run, shard_folder, epochs=4)


@pytest.mark.slow
def test_in_the_first_epoch_there_is_no_best_yet(shard_folder, tmp_path):
    with killed_after(lambda state: state["epoch"] == 1):
        train(data=shard_folder, out=tmp_path, **{**RUN, "epochs": 2, "save_every": 2})
    (run,) = tmp_path.iterdir()
    first = checkpoints_of(run)[-1]
    assert load_checkpoint(first)["epoch"] == 0
    with killed_after(lambda state: state["step"] == 2):
        train(resume=str(first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fasttrain.commands.run.Run._one_epoch", lambda self: os.kill(os.getpid(), signal.SIGKILL))
        patch.setattr("os.kill", lambda pid, number: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(resume=str(run))
    assert not (run / "model.safetensors").exists() and not (run / "history.json").exists()
    train(resume=str(run))
    assert json.loads((run / "evaluation.json").read_text())["best_epoch"] in (1, 2)


def as_older_fasttrain_wrote(path: Path) -> Path:
    state = load_checkpoint(path)
    for name in ("best", "journal"):
        del state[name]
    state["config"].update(out="elsewhere", resume="auto", run_name="mine", profile=False)
    save_checkpoint(path, state)
    return path


@pytest.mark.slow
def test_checkpoints_without_the_best_weights(run, shard_folder, capsys):
    """Older versions wrote such checkpoints: the folder's weights count, unless the run goes back."""
    first, last = (as_older_fasttrain_wrote(checkpoint_of_epoch(run, epoch)) for epoch in (1, 4))
    train(resume=str(last))
    assert_of_one_branch(run, shard_folder, epochs=4)
    train(resume=str(first), epochs=2, **WORSE)  # the end of its own best epoch
    assert_of_one_branch(run, shard_folder, epochs=2, best=1)
    second = as_older_fasttrain_wrote(checkpoint_of_epoch(run, 2))
    train(resume=str(second), learning_rate=1e-5)  # the best one, 1, lies in the folder
    assert json.loads((run / "evaluation.json").read_text())["best_epoch"] == 1
    assert "are lost" not in capsys.readouterr().out
    (run / "model.safetensors").unlink()
    second = as_older_fasttrain_wrote(checkpoint_of_epoch(run, 2))
    train(resume=str(second), epochs=3, learning_rate=1e-5)
    assert "the weights of epoch 1, the best one, are lost" in " ".join(capsys.readouterr().out.split())
    history = json.loads((run / "history.json").read_text())
    said = json.loads((run / "evaluation.json").read_text())
    assert said["best_epoch"] in (2, 3) and said["loss"] == pytest.approx(history[said["best_epoch"] - 1]["val_loss"])


@pytest.mark.slow
def test_ended_extended_stopped_and_resumed(run, shard_folder):
    """Whatever comes in between, `auto` goes on with what was asked for."""

    def stop(record: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(resume=str(run), epochs=7, run_name="longer", after_epoch=stop)
    assert not (run / "evaluation.json").exists() and not (run / "report.html").exists()
    assert newest_unfinished(run.parent) == run
    for settings in (last_state(run)["config"], read_toml(run / "config.toml")):
        assert settings["epochs"] == 7 and not {"resume", "run_name", "out"} & settings.keys()
    assert len(train(resume="auto", out=run.parent).history) == 7
    assert (
        json.loads((run / "evaluation.json").read_text())["best_epoch"] <= 7 and newest_unfinished(run.parent) is None
    )


def test_extended_and_killed_at_once(run):
    with killed_after(lambda state: True):
        train(resume=str(run), epochs=5)
    assert newest_unfinished(run.parent) == run and last_state(run)["epoch"] == 4
    assert len(train(resume="auto", out=run.parent).history) == 5


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ({}, 4),  # nothing is new: it ends again
        ({"early_stopping": 1}, 4),
        ({"early_stopping": 3}, 5),  # more patience, for one epoch that is no better
        ({"epochs": 7}, 6),  # more epochs: the count begins anew
    ],
)
@pytest.mark.slow
def test_a_run_that_early_stopping_ended(given, epochs, run, monkeypatch):
    state = last_state(run)
    state["early_stopping"] = {**state["early_stopping"], "waited": 2, "best": 0.0}
    state["config"].update(early_stopping=2, epochs=6)
    save_checkpoint(checkpoints_of(run)[0], state)
    assert len(train(resume=str(run), **given).history) == epochs
