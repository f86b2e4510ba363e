"""A forked program does what a new Python does with it: arguments, streams, signals, exit codes, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm
from tests.support.patience import PATIENCE

PROGRAMS = {
    "what it was given": "import os, sys; print(sys.argv, os.getcwd(), os.environ['GIVEN'], sys.stdin.read())",
    "its place": "import os; print(os.getppid(), os.getpgid(0), os.getsid(0))",
    "its streams": "import sys; print([(s.encoding, s.errors, s.line_buffering) for s in (sys.stdout, sys.stderr)])",
    "its signals": "import signal; print([signal.getsignal(n) for n in signal.valid_signals()])",
    "an exit code": "raise SystemExit(75)",
    "a last word": "raise SystemExit('refused')",
    "an error": "raise ValueError('x')",
    "Ctrl-C": "raise KeyboardInterrupt",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exit handlers": "import atexit, threading as t; atexit.register(print, 'end'); t.Timer(0.1, print, 'x').start()",
}


@pytest.fixture(scope="module")
def server() -> Iterator[warm.Server]:
    server = warm.Server(dict(os.environ), ["json"])
    yield server
    server.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_a_new_python_does(server: warm.Server, tmp_path: Path, name: str) -> None:
    command = ["-c", PROGRAMS[name], "one", "two"]
    options: Any = {"cwd": tmp_path, "env": {**os.environ, "GIVEN": "x"}, "text": True}
    options |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    ends = []
    for process in (
        warm.Popen(command, server=server, **options),
        subprocess.Popen([sys.executable, *command], **options),
    ):
        out, error = process.communicate("typed", timeout=PATIENCE)
        ends.append((process.returncode, out, error.splitlines()[-1:]))
    assert ends[0] == ends[1]


def test_programs_and_modules_run_as_main(server: warm.Server, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("print('imported')")
    (tmp_path / "script.py").write_text("import sys, beside; print(__name__, sys.argv[1:])")
    for command in (["script.py", "-x"], ["-m", "script", "-x"]):
        done = warm.run(command, server=server, cwd=tmp_path, text=True)
        assert done.stdout == "imported\n__main__ ['-x']\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it_and_its_group(server: warm.Server, number: signal.Signals) -> None:
    for send in (lambda process: process.send_signal(number), lambda process: os.killpg(process.pid, number)):
        process = warm.Popen(["-c", "import time; time.sleep(600)"], server=server, start_new_session=True)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        send(process)
        assert process.wait(PATIENCE) == -number


def test_one_that_cannot_begin_is_an_error(server: warm.Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        warm.Popen(["-c", ""], server=server, cwd=tmp_path / "none")
