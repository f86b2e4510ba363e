"""Checkpoint files: exact, checked, written in the background; which one a run goes on from, and which ones stay."""

from __future__ import annotations

import math
import random
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fasttrain.checkpoint.writer as writer_module
from fasttrain import train
from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.folder import checkpoint_path, checkpoints_of, find_checkpoint, newest_checkpoint, remove_old
from fasttrain.checkpoint.trained import load_trained
from fasttrain.checkpoint.writer import CheckpointWriter
from fasttrain.config.load import resolve
from fasttrain.config.values import SaveEvery
from fasttrain.errors import InternalError, UserError
from fasttrain.training.saving import Saving
from tests.checkpoint.damage import bombs, flip_bit, truncate, with_metadata
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, killed_after, last_state

RUN = {**SMALL, "model": "test_convnext", "image_size": 32, "batch_size": 8, "save_every": 3, "keep": 3}
RUN |= {"track": False, "deterministic": True, "drop_rate": 0.2, "ema_decay": 0.9, "scheduler": "onecycle"}


def same(ours: Any, theirs: Any) -> bool:
    """Equal in every type, bit and memory layout."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, torch.Tensor):
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            return False
        if ours.numel() and ours.stride() != theirs.stride():
            return False
        return torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (ours, theirs)))
    if isinstance(ours, dict):
        return [(type(key), key) for key in ours] == [(type(key), key) for key in theirs] and all(
            same(ours[key], theirs[key]) for key in ours
        )
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return (math.isnan(ours) and math.isnan(theirs)) or (ours == theirs and str(ours) == str(theirs))
    return bool(ours == theirs)


def test_what_it_cannot_hold_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(InternalError, match=r"can't hold a Path|can't hold a PosixPath \(model\.where\)"):
        save_checkpoint(tmp_path / "step-00000001.safetensors", {"model": {"where": tmp_path}})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def alone(shard_folder, tmp_path_factory):
    """A run that nobody disturbed: 2 epochs of 10 steps."""
    return train(data=shard_folder, out=tmp_path_factory.mktemp("alone"), **RUN)


@pytest.fixture(scope="module")
def killed_run(shard_folder, tmp_path_factory):
    """The same, killed right after the checkpoint of step 12, with those of 9 and 10, an epoch's end, behind it."""
    runs = tmp_path_factory.mktemp("killed")
    with killed_after(lambda state: state["step"] == 12):
        train(data=shard_folder, out=runs, **RUN)
    return next(runs.iterdir())


@pytest.fixture
def killed(killed_run, tmp_path):
    """A copy of its folder that a test may spoil."""
    return Path(shutil.copytree(killed_run, tmp_path / "runs" / killed_run.name))


def steps_of(run: Path) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in checkpoints_of(run)]


def assert_goes_on_as_if_nothing_had_happened(run: Path, alone: Any, **settings: Any) -> None:
    resumed = train(resume=str(run), **settings)
    assert resumed.folder == run
    ours, theirs = last_state(run), last_state(alone.folder)
    for part in ("model", "ema", "optimizer", "schedule"):
        assert same(ours[part], theirs[part]), part
    assert [each["val_loss"] for each in ours["history"]] == [each["val_loss"] for each in theirs["history"]]


def test_the_newest_stay_and_other_programs_can_read_them(alone, killed):
    assert steps_of(killed) == [12, 10, 9]
    assert not [path.name for path in (killed / "checkpoints").iterdir() if path.name.startswith(".")]
    path = checkpoints_of(killed)[0]
    tensors, state = load_file(path), load_checkpoint(path)
    weights = {name.removeprefix("model."): each for name, each in tensors.items() if name.startswith("model.")}
    assert weights.keys() == state["model"].keys()
    assert all(torch.equal(state["model"][name], each) for name, each in weights.items())
    model, _ = load_trained(path)
    assert torch.equal(model.state_dict()["head.fc.weight"], state["ema"]["head.fc.weight"])
    assert len(steps_of(alone.folder)) == 3


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.slow
def test_checkpoints_of_older_schemas_go_on(schema, killed, alone):
    state = load_checkpoint(checkpoints_of(killed)[0])
    for path in checkpoints_of(killed):
        path.unlink()
    for new in ("save_every", "keep"):
        del state["config"][new]
    schedule = state["schedule"]["active"] if schema == 1 else state["schedule"]
    torch.save({**state, "schema": schema, "schedule": schedule}, killed / "checkpoints" / "last.pt")
    assert find_checkpoint("auto", killed.parent).path == killed / "checkpoints" / "last.pt"
    assert_goes_on_as_if_nothing_had_happened(killed, alone, keep=1, save_every=5)
    assert steps_of(killed) == [20], "the old file went with the others"


@pytest.mark.parametrize("damage", [truncate, flip_bit])
@pytest.mark.slow
def test_a_torn_one_is_named_and_the_one_before_it_taken(damage, killed, alone, capsys):
    newest, before, _ = checkpoints_of(killed)
    damage(newest, random.Random(3))
    found = newest_checkpoint(killed)
    assert found.path == before and len(found.torn) == 1
    assert_goes_on_as_if_nothing_had_happened(killed, alone)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newest}: not" in said and f"resuming from {before.name}" in said


def test_the_checksum_covers_every_byte_and_itself(tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    save_checkpoint(path, {"step": 1, "model": {"weight": torch.arange(7.0)}, "history": [{"loss": 0.25}]})
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (0, 5):  # 5: a letter's case, a hexadecimal digit's in the checksum
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(UserError):
                load_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="its checksum is wrong"):
        load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path)["step"] == 1


def test_an_explicit_torn_one_names_its_neighbour(killed):
    newest, before, _ = checkpoints_of(killed)
    truncate(newest, random.Random(5))
    with pytest.raises(UserError) as caught:
        find_checkpoint(str(newest), killed.parent)
    assert f"give --resume {before}, which is intact" in str(caught.value) and "\n" not in str(caught.value)
    assert find_checkpoint(str(before), killed.parent).state["step"] == 10


def test_all_torn_is_an_error_and_no_fresh_start(killed):
    for path in checkpoints_of(killed):
        truncate(path, random.Random(7))
    for resume in ("auto", str(killed)):
        with pytest.raises(UserError, match=r"none of its 3 checkpoints is intact: .*step-00000012"):
            find_checkpoint(resume, killed.parent)


def test_a_newer_schema_is_refused_by_name_and_not_passed_over(killed):
    newest = checkpoints_of(killed)[0]
    with_metadata(newest)
    assert load_checkpoint(newest)["step"] == 12, "the test's own rewriting leaves it intact"
    with_metadata(newest, schema="4")
    with pytest.raises(UserError, match="schema 4 is newer than this fasttrain's 3; upgrade fasttrain"):
        newest_checkpoint(killed)
    torch.save({"schema": 99}, killed / "newer.pt")
    with pytest.raises(UserError, match=r"schema 99 is newer .*; upgrade fasttrain"):
        load_checkpoint(killed / "newer.pt")


@pytest.mark.slow
def test_going_back_to_an_earlier_step_leaves_the_later_ones_behind(killed, alone):
    earlier = checkpoints_of(killed)[-1]
    with killed_after(lambda state: state["step"] == 11):
        train(resume=str(earlier), save_every=11)
    assert steps_of(killed) == [11, 10, 9]
    assert_goes_on_as_if_nothing_had_happened(killed, alone, keep=2)
    assert len(steps_of(killed)) == 2


def test_bombs_are_refused_in_one_line_and_do_not_go_off(tmp_path):
    for name, path in bombs(tmp_path).items():
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        said = str(caught.value)
        assert said.startswith(f"{path}: ") and "\n" not in said, name
        expected = (
            "not a fasttrain checkpoint" if path.suffix == ".safetensors" else "of (its|the) code was run|unpack to"
        )
        assert re.search(expected, said), (name, said)
    assert not (tmp_path / "went-off").exists()
    torch.load(tmp_path / "shell.pt", weights_only=False)
    assert (tmp_path / "went-off").exists(), "the bomb was real"


def test_strangers_strides_take_no_memory(tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    save_checkpoint(path, {"x": torch.zeros(2, 3).t()})
    packed = '{"x":{"$tensor":"x","$stride":[4000000000,400000000]}}'
    with_metadata(path, state=packed)
    with pytest.raises(UserError, match=r"not an intact fasttrain checkpoint \(strides"):
        load_checkpoint(path)
    for wrong in ("[]", '{"x":{"$tensor":"y"}}', '{"x":{"$tuple":3}}', "{", "[" * 100_000):
        with_metadata(path, state=wrong)
        with pytest.raises(UserError, match="not an intact"):
            load_checkpoint(path)


def test_foreign_files_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "bare.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    torch.save({"step": 1, "weight": torch.zeros(1000)}, tmp_path / "torn.pt")
    with (tmp_path / "torn.pt").open("r+b") as file:
        file.truncate(2000)
    (tmp_path / "empty.safetensors").touch()
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "bare.safetensors")
    words = {
        "bare.pt": "not a fasttrain checkpoint",
        "text.pt": "not an intact",
        "empty.pt": "not an intact",
        "torn.pt": "not an intact",
        "empty.safetensors": "not a fasttrain checkpoint, or damaged",
        "bare.safetensors": "use --weights for a file of weights",
        "none.pt": "No such file",
        ".": "Is a directory",
    }
    for name, said in words.items():
        with pytest.raises(UserError, match=said) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    go, writing = threading.Event(), threading.Event()

    def slow(path: Path, state: dict[str, Any]) -> None:
        writing.set()
        assert go.wait(PATIENCE)
        save_checkpoint(path, state)

    monkeypatch.setattr(writer_module, "save_checkpoint", slow)
    weight, history = torch.zeros(1000), [{"loss": 1.0}]
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save({"step": 1, "model": {"weight": weight}, "history": history})
    assert writing.wait(PATIENCE)
    weight.fill_(7)  # like the next training step
    history[0]["loss"] = 2.0
    writer.check()
    go.set()
    assert writer.wait() == checkpoint_path(tmp_path, 1)
    state = load_checkpoint(checkpoint_path(tmp_path, 1))
    assert not state["model"]["weight"].any() and state["history"] == [{"loss": 1.0}]
    for step in (2, 3, 4):
        writer.save({"step": step})
    assert writer.wait() == checkpoint_path(tmp_path, 4) and steps_of(tmp_path) == [4, 3]


@pytest.mark.parametrize("call", ["save", "check", "wait"])
def test_what_the_thread_failed_with_reaches_the_run(call, tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save({"step": 1})
    writer._thread.join()
    with pytest.raises(UserError, match=r"checkpoints: is a file") as caught:
        {"save": lambda: writer.save({"step": 2}), "check": writer.check, "wait": writer.wait}[call]()
    assert "\n" not in str(caught.value)
    (tmp_path / "checkpoints").unlink()
    writer.save({"step": 3})
    assert writer.wait() == checkpoint_path(tmp_path, 3), "said once, and done with"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(checkpoint_path(tmp_path, step), {"step": step})
    folder = tmp_path / "checkpoints"
    (folder / ".step-00000009.safetensors.77.tmp").touch()
    (folder / "step-mine.safetensors").touch()
    (folder / "notes.txt").touch()
    remove_old(checkpoint_path(tmp_path, 3), keep=1)
    assert {path.name for path in folder.iterdir()} == {
        "step-00000003.safetensors",
        "step-mine.safetensors",
        "notes.txt",
    }


def test_save_every_counts_steps_or_time(tmp_path, monkeypatch):
    assert SaveEvery.parse(200) == SaveEvery.parse("200") == SaveEvery(steps=200)
    assert SaveEvery.parse("10min") == SaveEvery.parse("10 m") == SaveEvery(seconds=600)
    assert (SaveEvery.parse("30s"), SaveEvery.parse("1.5h")) == (SaveEvery(seconds=30), SaveEvery(seconds=5400))
    assert SaveEvery.parse("off") == SaveEvery()
    for given in ("200", 200, SaveEvery(steps=200)):
        assert resolve({"save_every": given}).save_every == SaveEvery(steps=200)
        assert resolve({"save_every": given}).plain()["save_every"] == 200
    wrong = {0: "nearest valid value is 1", "-3": "nearest valid value is 1", "0.5s": "nearest valid value is 1s"}
    for value, said in {**wrong, "often": "write 200 (steps), 10min, or off"}.items():
        with pytest.raises(UserError) as caught:
            resolve({"save_every": value}, origin="food.toml")
        assert str(caught.value).startswith("food.toml: save_every = ") and said in str(caught.value)
    clock = [0.0]
    monkeypatch.setattr("fasttrain.training.saving.time.monotonic", lambda: clock[0])
    saving = Saving(tmp_path, SaveEvery(seconds=60), keep=2)
    other = Saving(tmp_path, SaveEvery(seconds=60), keep=2, main=False)
    seen = []
    for clock[0] in (30.0, 60.0, 61.0, 119.0, 121.0):
        seen.append(saving.due(7, saving.overdue))
        assert not other.overdue and other.due(7, True) and not other.due(7, False)
        if seen[-1]:
            saving.save({"step": 7})
    assert seen == [False, True, False, False, True]
    steps = Saving(tmp_path, SaveEvery(steps=3), keep=2)
    assert [steps.due(step, steps.overdue) for step in range(1, 7)] == [False, False, True] * 2


def test_a_run_saves_by_the_clock(shard_folder, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 45))
    monkeypatch.setattr("fasttrain.training.saving.time.monotonic", lambda: next(clock))
    saved = []
    with killed_after(lambda state: saved.append(state["step"]) or state["step"] == 9):
        train(data=shard_folder, out=tmp_path, **{**RUN, "save_every": "2min"})
    assert len(saved) >= 3, "each few readings of the clock"
