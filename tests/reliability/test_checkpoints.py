"""Checkpoints that are torn, flipped, hostile, or written while the disk fills: what a run goes on from is whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fasttrain import train
from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.checkpoint.folder import checkpoints_of, newest_checkpoint
from fasttrain.errors import UserError
from tests.checkpoint.damage import bombs, flip_bit, truncate
from tests.reliability.machine import Machine
from tests.support import warm
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, arguments, killed_after, last_state

RUN = {**SMALL, "model": "test_convnext", "image_size": 32, "batch_size": 8, "save_every": 3, "keep": 2}
RUN |= {"track": False, "deterministic": True, "drop_rate": 0.2, "optimizer": "adamw"}


@pytest.fixture(scope="module")
def alone(shard_folder, tmp_path_factory) -> dict[str, Any]:
    """How a run ends that nobody disturbed: 2 epochs of 10 steps."""
    return last_state(train(data=shard_folder, out=tmp_path_factory.mktemp("alone"), **RUN).folder)


@pytest.fixture(scope="module")
def killed(shard_folder, tmp_path_factory) -> Path:
    """The folder of the same run, killed after step 12, with the checkpoint of step 10 beside it."""
    runs = tmp_path_factory.mktemp("killed")
    with killed_after(lambda state: state["step"] == 12):
        train(data=shard_folder, out=runs, **RUN)
    return next(runs.iterdir())


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def assert_same_weights(run: Path, alone: dict[str, Any]) -> None:
    state = last_state(run)
    assert state["step"] == alone["step"]
    assert all(torch.equal(state["model"][name], each) for name, each in alone["model"].items())


@pytest.mark.parametrize("damage", [truncate, flip_bit], ids=["truncated", "flipped"])
def test_the_newest_is_damaged(damage: Callable[..., str], killed, alone, tmp_path, fault) -> None:
    times, resumes = fault.times(10, 100), fault.times(1, 10)
    drawn = random.Random(8)
    newest, before = checkpoints_of(killed)
    expected = load_checkpoint(before)["model"]
    for number in range(times):
        run = Path(shutil.copytree(killed, tmp_path / f"{number}" / killed.name))
        torn = run / "checkpoints" / newest.name
        how = damage(torn, drawn)
        found = newest_checkpoint(run)
        assert found.path.name == before.name, how
        assert [str(torn) in line for line in found.torn] == [True], how
        assert all(torch.equal(found.state["model"][name], each) for name, each in expected.items())
        if number < resumes:
            train(resume=str(run))
            assert_same_weights(run, alone)
        shutil.rmtree(run.parent)
    what = "cut at a random byte" if damage is truncate else "a random bit flipped, half of them in the header"
    fault.seen(
        f"the newest checkpoint is {'torn' if damage is truncate else 'corrupt'}",
        f"{what}; the run then goes on from the one before it, {resumes} of them to the end",
        times,
        measured="each was noticed and named; same weights at the end as an undisturbed run's",
    )


def test_every_checkpoint_is_torn(killed, tmp_path, fault) -> None:
    times = fault.times(3, 20)
    drawn = random.Random(9)
    for number in range(times):
        run = Path(shutil.copytree(killed, tmp_path / f"{number}" / killed.name))
        for path in checkpoints_of(run):
            truncate(path, drawn)
        before = sorted(path.read_bytes() for path in run.rglob("*") if path.is_file())
        with pytest.raises(UserError, match="none of its 2 checkpoints is intact"):
            train(resume="auto", out=run.parent)
        assert sorted(path.read_bytes() for path in run.rglob("*") if path.is_file()) == before
        assert list(run.parent.iterdir()) == [run], "no fresh run beside it"
    fault.seen(
        "every checkpoint of a run is torn",
        "all cut at random bytes, then `--resume auto`: one line, no new run in its place",
        times,
    )


def test_a_checkpoint_is_a_bomb(killed, tmp_path, fault) -> None:
    made = bombs(tmp_path)
    for name, path in made.items():
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value), name
    run = Path(shutil.copytree(killed, tmp_path / "runs" / killed.name))
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    shutil.copyfile(made["in a checkpoint"], run / "checkpoints" / "last.pt")
    for resume in ("auto", str(run), str(made["shell"])):
        with pytest.raises(UserError, match="refused, because it names code to run"):
            train(resume=resume, out=run.parent)
    assert not (tmp_path / "went-off").exists()
    torch.load(made["shell"], weights_only=False)
    assert (tmp_path / "went-off").exists(), "the bombs were real"
    fault.seen(
        "a checkpoint from a stranger holds a pickle bomb",
        f"{len(made)} kinds: {', '.join(made)}; each would make a file, or fill the memory",
        len(made),
        measured="each refused in one line; no file was made",
    )


@pytest.mark.full
def test_the_disk_fills_while_one_is_written(machine: Machine, shard_folder, alone, tmp_path, fault) -> None:
    """In the background: the run hears of it at a later step."""
    disk = machine.disk("8m")
    line = ["train", *arguments(data=shard_folder, out=disk, **{**RUN, "save_every": 1, "keep": 50})]
    said = machine.run(*line).said
    assert "step-000000" in said and "the disk is full" in said and "--resume" in said
    run = next(machine.inside(disk).iterdir())
    intact = checkpoints_of(run)
    assert intact and len(list((run / "checkpoints").iterdir())) == len(intact), "no torn file"
    steps = [load_checkpoint(path)["step"] for path in intact]
    assert steps == list(range(len(steps), 0, -1))
    machine.resize(disk, "64m")
    assert machine.run("train", "--resume", "auto", "--out", disk, "--keep", "2").code == 0
    run = Path(shutil.copytree(run, tmp_path / "run"))
    assert_same_weights(run, alone)
    fault.seen(
        "the disk is full when a checkpoint is written in the background",
        f"a disk of 8 MB takes {len(steps)}; then it grows, and `--resume auto`",
        1,
        measured="one line; the checkpoints before it are whole; same weights at the end",
    )


DIES = """
import os, signal, sys
from pathlib import Path
when, real = int(sys.argv.pop(1)), Path.replace
def replace(self, target):
    if "step-" in self.name:
        replace.seen += 1
        if replace.seen == when:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
replace.seen = 0
Path.replace = replace
from fasttrain.cli import main
main()
"""


@pytest.mark.full
def test_killed_between_writing_and_renaming(shard_folder, alone, tmp_path, fault) -> None:
    times = fault.times(1, 6)
    (tmp_path / "dies.py").write_text(DIES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    total = alone["step"]
    epoch = total // RUN["epochs"]
    saved = sorted({*range(3, total, 3), *range(epoch, total + 1, epoch)})  # each three steps, and at an epoch's end
    for number in range(1, times + 1):
        line = ["train", *arguments(data=shard_folder, out=tmp_path / str(number), **RUN)]
        done = warm.run([tmp_path / "dies.py", str(number + 1), *line], env=environment, text=True, timeout=PATIENCE)
        assert done.returncode == -signal.SIGKILL, done.stderr
        run = next((tmp_path / str(number)).iterdir())
        left = [path for path in (run / "checkpoints").iterdir() if path.suffix == ".tmp"]
        assert len(left) == 1 and newest_checkpoint(run).state["step"] == saved[number - 1]
        train(resume="auto", out=run.parent)
        assert_same_weights(run, alone)
        assert not [path for path in (run / "checkpoints").iterdir() if path.suffix == ".tmp"]
    fault.seen(
        "killed when a checkpoint is written, but has not got its name",
        "SIGKILL before the rename of one checkpoint after the other, then `--resume auto`",
        times,
        measured="the one before is taken, the left-over removed; same weights at the end",
    )
