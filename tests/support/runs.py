"""Run the command line as people do: a process, a small model, a store of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm
from tests.support.patience import wait_until

SMALL = {
    "model": "mobilenetv2_035",
    "pretrained": False,
    "image_size": 48,
    "batch_size": 16,
    "epochs": 2,
    "workers": 0,
    "device": "cpu",
    "loader": "torchvision",
    "learning_rate": 0.003,
}


def arguments(**settings: Any) -> list[str]:
    """Settings as the command line takes them."""
    line = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            line.append(flag if value else "--no-" + flag[2:])
        else:
            line += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return line


Start = Callable[..., "subprocess.Popen[str]"]


def start_run(
    shard_folder: Path,
    folder: Path,
    bare: bool = False,
    pause_at: int | None = None,
    cold: bool = False,
    figures: bool = True,
    **settings: Any,
) -> subprocess.Popen[str]:
    """A `fasttrain train` process in `folder`, on the small data set; `bare` adds no settings to those given.

    A `cold` one is a new Python; any other is forked from one that has imported torch. Without `figures` it writes no
    report, either.

    With `pause_at` it waits after that step's checkpoint: `paused` is what meets it there.
    """
    if not bare:
        settings = {"data": shard_folder, "out": folder / "runs", **SMALL, **settings}
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
    command = [*program(pause_at, folder, figures), "train", *arguments(**settings)]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    if cold:
        return subprocess.Popen([sys.executable, *command], env=environment, cwd=folder, **streams)
    return warm.Popen(command, env=environment, cwd=folder, **streams)


def program(pause_at: int | None = None, folder: Path | None = None, figures: bool = True) -> list[str]:
    """Return the program for Python: fasttrain, one that pauses after a step's checkpoint, or one without figures."""
    if pause_at is not None:
        return [str(Path(__file__).with_name("paused_at.py")), str(pause_at), str(folder)]
    return ["-m", "fasttrain"] if figures else [str(Path(__file__).with_name("without_figures.py"))]


@contextmanager
def paused(process: subprocess.Popen[str], folder: Path) -> Iterator[None]:
    """The time between a run's arrival at its `pause_at` and its going on."""
    wait_until(lambda: (folder / "reached").exists() or process.poll() is not None)
    if not (folder / "reached").exists():
        pytest.fail(f"no pause: {process.communicate()[0]}")
    yield
    (folder / "go").touch()


class Killed(Exception):
    """Stands for SIGKILL right after a checkpoint."""


@contextmanager
def killed_after(save_when: Callable[[dict[str, Any]], bool]) -> Iterator[None]:
    """`train` in this process dies right after the first checkpoint that `save_when` chooses by its content."""
    from fasttrain.checkpoint.writer import CheckpointWriter

    save = CheckpointWriter.save

    def save_and_die(self: CheckpointWriter, state: dict[str, Any]) -> None:
        save(self, state)
        self.wait()
        if save_when(state):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "save", save_and_die)
        with pytest.raises(Killed):
            yield


def last_state(run: Path) -> dict[str, Any]:
    """Return the content of the newest checkpoint of the run in the folder `run`."""
    from fasttrain.checkpoint.folder import newest_checkpoint

    found = newest_checkpoint(run)
    assert not found.torn
    return found.state
