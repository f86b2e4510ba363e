"""Ctrl-C in a terminal: the person is told at once, the step is finished, the run can go on; a second one ends it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, arguments, paused, program


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.slow
def test_ctrl_c_is_answered_at_once(shard_folder: Path, tmp_path: Path, times: int) -> None:
    settings = {"data": shard_folder, "out": tmp_path / "runs", **SMALL, "save_every": 1, "track": False}
    terminal, its_end = pty.openpty()
    command = [*program(2, tmp_path), "train", *arguments(**settings)]
    options: Any = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "stderr": its_end}
    if times == 1:
        run = subprocess.Popen([sys.executable, *command], text=True, **options)
    else:
        run = warm.Popen(command, text=True, **options)
    os.close(its_end)
    with paused(run, tmp_path):
        run.send_signal(signal.SIGINT)
        told = os.read(terminal, 4096).decode()
        assert "stopping after this step, with a checkpoint; press Ctrl-C again to stop at once" in told
        if times == 2:
            run.send_signal(signal.SIGINT)
            run.wait(PATIENCE)  # it doesn't wait for the test, whose pause stands for a long step
    out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    assert ("resume with: fasttrain train --resume" in out) == (times == 1)
    os.close(terminal)
