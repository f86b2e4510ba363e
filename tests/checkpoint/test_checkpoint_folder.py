"""Which checkpoint is found and which go, on folders made by hand: no run is trained for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.folder import (
    checkpoint_path,
    checkpoints_of,
    find_checkpoint,
    newest_checkpoint,
    newest_unfinished,
    remove_old,
)
from fasttrain.checkpoint.pickled import load_pickled
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import TooNew, UserError


def make(run: Path, *steps: int, at: int = 0) -> list[Path]:
    paths = [checkpoint_path(run, step) for step in steps]
    for path, step in zip(paths, steps, strict=True):
        save_checkpoint(path, {"step": step, "model": {"weight": torch.full((3,), float(step))}})
        os.utime(path, ns=(at, at))
    return paths


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_names_sort_by_number_and_strangers_are_not_among_them(tmp_path):
    few, many = make(tmp_path, 9, 100_000_000)
    assert few.name == "step-00000009.safetensors" and few.parent == tmp_path / "checkpoints"
    for name in ("step-9.safetensors", "step-00000010.safetensors.tmp", "step-0000001x.safetensors", "other.pt"):
        (few.parent / name).touch()
    assert checkpoints_of(tmp_path) == [many, few]
    torch.save({"schema": 2, "step": 1}, few.parent / "last.pt")
    assert checkpoints_of(tmp_path) == [many, few, few.parent / "last.pt"]
    assert checkpoints_of(tmp_path / "none") == []


def test_the_newest_intact_one_is_taken_and_the_torn_ones_named(tmp_path):
    paths = make(tmp_path, 1, 2, 3)
    assert newest_checkpoint(tmp_path).torn == ()
    tear(paths[2]), tear(paths[1])
    found = newest_checkpoint(tmp_path)
    assert found.path == paths[0] and found.state["step"] == 1
    assert [line.partition(": ")[0] for line in found.torn] == [str(paths[2]), str(paths[1])]
    assert all(line.endswith("; resuming from step-00000001.safetensors") for line in found.torn)
    tear(paths[0])
    with pytest.raises(UserError, match=r"checkpoints: none of its 3 checkpoints is intact: .*step-00000003"):
        newest_checkpoint(tmp_path)
    paths[0].unlink(), paths[1].unlink()
    with pytest.raises(UserError, match=rf"^{paths[2]}: not an intact fasttrain checkpoint \(its checksum is wrong\)"):
        newest_checkpoint(tmp_path)
    paths[2].unlink()
    with pytest.raises(UserError, match=rf"^{tmp_path}: no checkpoint in it; give --resume a run folder"):
        newest_checkpoint(tmp_path)


def test_what_resume_means(tmp_path):
    run = tmp_path / "runs" / "one"
    first, second = make(run, 1, 2)
    assert find_checkpoint(str(run), tmp_path).path == second
    assert find_checkpoint(str(first), tmp_path).path == first and find_checkpoint(str(first), tmp_path).torn == ()
    assert find_checkpoint("auto", tmp_path / "runs").path == second
    assert find_checkpoint("auto", tmp_path / "none") is None
    missing = run / "step.pt"
    with pytest.raises(UserError, match=rf"^{missing}: no such checkpoint; give --resume"):
        find_checkpoint(str(missing), tmp_path)
    tear(first)
    with pytest.raises(UserError, match=rf"^{first}: not an intact .*; give --resume {second}, which is intact$"):
        find_checkpoint(str(first), tmp_path)
    tear(second)
    with pytest.raises(UserError, match=r"\(its checksum is wrong\)$"):
        find_checkpoint(str(first), tmp_path)
    alone = tmp_path / "elsewhere" / first.name
    alone.parent.mkdir()
    alone.write_bytes(b"torn")
    make(tmp_path / "elsewhere", 5)
    with pytest.raises(UserError, match=r"use --weights for a file of weights$"):
        find_checkpoint(str(alone), tmp_path)


def test_a_neighbour_is_the_newest_intact_one(tmp_path):
    paths = make(tmp_path, 1, 2, 3, 4)
    tear(paths[3]), tear(paths[0])
    with pytest.raises(UserError, match=rf"{paths[2]}, which is intact"):
        find_checkpoint(str(paths[0]), tmp_path)


def test_auto_is_the_unfinished_run_that_was_saved_last(tmp_path):
    old, new, done = (tmp_path / name for name in ("a", "b", "c"))
    make(new, 1, at=5 * 10**9), make(done, 9, at=9 * 10**9), make(old, 1, at=10**9)
    (done / "evaluation.json").touch()
    assert newest_unfinished(tmp_path) == new
    make(old, 2, at=6 * 10**9), make(old, 3, at=2 * 10**9)
    assert newest_unfinished(tmp_path) == old, "by its newest checkpoint, whichever that is"
    schema_2 = tmp_path / "d" / "checkpoints" / "last.pt"
    schema_2.parent.mkdir(parents=True)
    torch.save({"schema": 2}, schema_2)
    os.utime(schema_2, ns=(8 * 10**9, 8 * 10**9))
    assert newest_unfinished(tmp_path) == tmp_path / "d"
    assert newest_unfinished(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("newest", "keep", "left"), [(4, 1, [4]), (4, 2, [4, 3]), (2, 2, [2, 1]), (4, 9, [4, 3, 2, 1])]
)
def test_the_newest_are_kept(tmp_path, newest, keep, left):
    paths = make(tmp_path, 1, 2, 3, 4)
    temporary = paths[0].parent / ".step-00000007.safetensors.1.tmp"
    temporary.touch()
    remove_old(paths[newest - 1], keep)
    assert [int(path.stem[5:]) for path in checkpoints_of(tmp_path)] == left and not temporary.exists()


def test_nothing_goes_for_a_checkpoint_that_is_not_there(tmp_path):
    make(tmp_path, 1, 2)
    remove_old(checkpoint_path(tmp_path, 3), keep=1)
    assert len(checkpoints_of(tmp_path)) == 2


def test_what_cannot_be_removed_is_told_and_the_rest_goes(tmp_path, caplog):
    paths = make(tmp_path, 1, 2, 3)
    paths[1].unlink()
    paths[1].mkdir()  # a folder in the way of unlink, whoever asks
    remove_old(paths[2], keep=1)
    assert checkpoints_of(tmp_path) == [paths[2], paths[1]]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [f"can't remove {paths[1]}"]


@pytest.mark.parametrize(
    ("active", "steps"), [({"t_initial": 60}, 12), ({"total_steps": 60}, 12), ({"total_steps": 61}, 12), ({}, 1)]
)
def test_a_schedule_of_schema_1_is_migrated(tmp_path, active, steps):
    path = tmp_path / "last.pt"
    torch.save({"schema": 1, "step": 7, "config": {"epochs": 5}, "schedule": active}, path)
    state = load_checkpoint(path)
    expected = 11 if active == {"total_steps": 60} else steps
    assert state["schedule"] == {"epochs": 5, "steps_per_epoch": expected, "position": 7, "active": active}
    torch.save({"schema": 2, "step": 7, "schedule": "as it is"}, path)
    assert load_pickled(path) == {"schema": 2, "step": 7, "schedule": "as it is"}


@pytest.mark.parametrize("state", [{"weight": torch.zeros(1)}, [1], {"schema": "2"}])
def test_pickles_that_are_no_checkpoints(tmp_path, state):
    path = tmp_path / "some.pt"
    torch.save(state, path)
    with pytest.raises(
        UserError, match=rf"^{path}: not a fasttrain checkpoint; give --weights a file of bare weights$"
    ):
        load_pickled(path)


def test_a_newer_pickle_is_told_by_its_schema(tmp_path):
    path = tmp_path / "some.pt"
    torch.save({"schema": 3}, path)
    with pytest.raises(TooNew, match=rf"^{path}: schema 3 is newer than this fasttrain reads; upgrade fasttrain$"):
        load_pickled(path)


def test_the_header_is_what_safetensors_says_it_is(tmp_path):
    """Aligned for memory mapping, tensors by descending element size, and readable by the library itself."""
    from safetensors import safe_open

    path = tmp_path / "step-00000001.safetensors"
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(5, dtype=torch.float64), "c": torch.ones(2)}
    save_checkpoint(path, {"model": tensors, "step": 1})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0 and len(data) == 8 + length + 3 + 40 + 8
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt" and file.metadata()["schema"] == "3"
        assert sorted(file.keys()) == ["model.a", "model.b", "model.c"]
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(f"model.{name}"), tensor)
    header = json.loads(data[8 : 8 + length])
    assert [header[f"model.{name}"]["data_offsets"] for name in "bca"] == [[0, 40], [40, 48], [48, 51]]


def test_trained_models_from_what_a_run_leaves(tmp_path, model_folder):
    """`load_trained` takes a checkpoint's EMA where there is one, else its weights."""
    model, spec = load_trained(model_folder)
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.json").write_bytes((model_folder / "model.json").read_bytes())
    weights = model.state_dict()
    ema = {name: each + 1 if each.is_floating_point() else each for name, each in weights.items()}
    for step, averaged in ((1, None), (2, ema)):
        path = checkpoint_path(run, step)
        save_checkpoint(path, {"model": weights, "ema": averaged})
        loaded, its = load_trained(path)
        assert its == spec and not loaded.training
        name = next(iter(weights))
        assert torch.equal(loaded.state_dict()[name], (averaged or weights)[name])
    with pytest.raises(UserError, match=r"give a run folder, its model\.safetensors or a checkpoint"):
        load_trained(run)
    save_checkpoint(path, {"model": {"other": torch.zeros(1)}, "ema": None})
    with pytest.raises(UserError, match=rf"its tensors do not fit {spec.name} as "):
        load_trained(path)
    (run / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="not an intact safetensors file"):
        load_trained(run)
    for text, said in (("{", "not a model.json"), ('{"model": "x"}', "KeyError: 'classes'")):
        (run / "model.json").write_text(text)
        with pytest.raises(UserError, match=said):
            load_trained(path)
    (run / "model.json").unlink()
    with pytest.raises(UserError, match=r"model\.json: No such file or directory; put the file next to the weights"):
        load_trained(path)
