"""Which settings win, and what a resumed run is told of them; on checkpoints made by hand."""

from __future__ import annotations

import pytest

from fasttrain.checkpoint.file import save_checkpoint
from fasttrain.checkpoint.folder import checkpoint_path
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.training.resume import RunStart, start_of_run

THEN = {"model": "resnet18", "epochs": 4, "batch_size": 16, "seed": 7}


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints."""
    folder = tmp_path / "runs" / "one"
    for step in (1, 2):
        state = {"step": step, "config": resolve(THEN, {"out": tmp_path / "runs"}).plain()}
        save_checkpoint(checkpoint_path(folder, step), state)
    return folder


def test_a_fresh_run_takes_the_file_then_what_is_given(tmp_path):
    file = tmp_path / "food.toml"
    file.write_text("epochs = 3\nseed = 5\n")
    start = start_of_run(file, {"seed": 6, "model": None})
    assert start == RunStart(resolve({"epochs": 3, "seed": 6}))
    assert (start.folder, start.checkpoint, start.changed, start.torn) == (None, None, (), ())
    file.write_text("epochs = 0\n")
    with pytest.raises(UserError, match=rf"^{file}: epochs = 0"):
        start_of_run(file, {})
    with pytest.raises(UserError, match=r"^settings: epochs = 0"):
        start_of_run(None, {"epochs": 0})


def test_a_resumed_run_goes_on_as_it_began(run):
    for resume, extra in ((str(run), {}), ("auto", {"out": run.parent}), (str(checkpoint_path(run, 2)), {})):
        start = start_of_run(None, {"resume": resume, **extra})
        assert (start.folder, start.checkpoint["step"], start.changed, start.torn) == (run, 2, (), ())
        assert start.config == resolve(THEN, {"resume": resume, **extra})
        assert start.before == resolve(THEN) and not start.went_back
    earlier = start_of_run(None, {"resume": str(checkpoint_path(run, 1))})
    assert earlier.checkpoint["step"] == 1 and earlier.went_back


def test_what_is_given_wins_over_the_file_and_that_over_the_checkpoint(run, tmp_path):
    file = tmp_path / "food.toml"
    file.write_text("epochs = 9\npatience = 8\n")
    start = start_of_run(file, {"resume": str(run), "epochs": 10, "clip_grad": 1.0})
    assert (start.config.epochs, start.config.patience, start.config.batch_size) == (10, 8, 16)
    assert start.changed == ("clip_grad: None -> 1.0", "epochs: 4 -> 10", "patience: 2 -> 8")
    with pytest.raises(UserError, match=rf"^{file}: warmup_epochs = 99"):
        start_of_run(file, {"resume": str(run), "warmup_epochs": 99.0})
    file.write_text("warmup_epochs = 5\n")  # right by itself, and too long for that run
    start_of_run(file, {})
    with pytest.raises(UserError, match=rf"^{file}: warmup_epochs = 5"):
        start_of_run(file, {"resume": str(run)})


def test_another_model_is_refused_and_none_found_is_a_fresh_start(run, tmp_path):
    with pytest.raises(UserError, match=r"^model = resnet18 can't become vit in the run of .*-00000002\.safetensors: "):
        start_of_run(None, {"resume": str(run), "model": "vit"})
    given = {"resume": "auto", "out": tmp_path / "none", "epochs": 2}
    assert start_of_run(None, given) == RunStart(resolve(given))


def test_torn_ones_are_told(run):
    checkpoint_path(run, 2).write_bytes(b"torn")
    start = start_of_run(None, {"resume": str(run)})
    assert start.checkpoint["step"] == 1 and len(start.torn) == 1 and "resuming from step-00000001" in start.torn[0]
    assert not start.went_back, "what came after it is lost, not abandoned"
    assert not start_of_run(None, {"resume": str(checkpoint_path(run, 1))}).went_back, "by its own name, too"


def test_what_torchrun_restarts_goes_on_or_begins_again_in_its_folder(run, tmp_path):
    start = start_of_run(None, {"epochs": 6}, run)
    assert (start.folder, start.checkpoint["step"], start.changed) == (run, 2, ("epochs: 4 -> 6",))
    other = start_of_run(None, {"resume": "auto", "out": tmp_path / "none"}, run)
    assert other.folder == run and other.checkpoint["step"] == 2, "whatever resume says"
    empty = tmp_path / "runs" / "two"
    empty.mkdir()
    assert start_of_run(None, {"epochs": 6}, empty) == RunStart(resolve({"epochs": 6}), empty)


def test_auto_batch_size_stays_what_was_found(run):
    start = start_of_run(None, {"resume": str(run), "batch_size": "auto"})
    assert start.config.batch_size == 16 and start.changed == ()


def test_a_checkpoint_that_lies_elsewhere_is_no_runs(run, tmp_path, monkeypatch):
    there = checkpoint_path(run, 2)
    monkeypatch.chdir(there.parent)
    assert start_of_run(None, {"resume": there.name}).folder == run
    elsewhere = tmp_path / "copied" / there.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(there.read_bytes())
    with pytest.raises(UserError, match="not in the checkpoints folder of a run"):
        start_of_run(None, {"resume": str(elsewhere)})
    save_checkpoint(there, {"step": 2})
    with pytest.raises(UserError, match="not a checkpoint of a run"):
        start_of_run(None, {"resume": str(there)})
