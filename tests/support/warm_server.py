"""Forks a Python that has imported what fasttrain imports, for each program that a test starts.

    python tests/support/warm_server.py SOCKET MODULE …

`tests/support/warm.py` is the other end of the socket. A request is a line of JSON (command, environment, cwd,
new_session) with three descriptors: the program's stdin, stdout and stderr. The answer is two messages in any order:
"ready" once the program is a child of the process that asked, and its process ID once it is what was asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leaving import leave  # beside this program

_SURVIVES = "jemalloc_bg_thd"  # pyarrow's, which starts it again in a child

Request = tuple[dict[str, Any], list[int]]


def serve(control: socket.socket) -> Request | None:
    """Answer requests until there are no more. Return the request in the process that shall do it, else None."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not message:
            return None
        threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        lost = [each for each in threads if each != _SURVIVES][1:]
        assert not lost, f"a fork would lose the threads {lost}"
        middle = os.fork()
        if not middle:
            parent = os.getpid()
            if not os.fork():
                while os.getppid() == parent:  # the client must be the parent before the program can look
                    time.sleep(0.0002)
                return json.loads(message), descriptors
            os._exit(0)  # the child is now the client's, which can wait for it
        os.waitpid(middle, 0)
        control.send(b"ready")
        for each in descriptors:
            os.close(each)


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Make this process look like one that was started for the request alone."""
    if request["new_session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)
    sys.stdout, sys.stderr = _like(sys.stdout), _like(sys.stderr)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if kill_at := getattr(ctypes.CDLL(None), "kill_at_again", None):  # preloaded by tests/reliability/killing.py
        kill_at()


def _like(old: Any) -> io.TextIOWrapper:
    """Return a stream with the settings of `old`, as Python makes them at its start, for what the descriptor is now."""
    raw: Any = os.fdopen(old.fileno(), "wb", 0 if old.write_through else -1, closefd=False)
    lines = old.line_buffering or (raw.isatty() and not old.write_through)
    return io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=lines, write_through=old.write_through)


def run(command: list[str]) -> None:
    """Do what `python COMMAND` does: `-m MODULE …`, `-c CODE …` or `SCRIPT …`."""
    if command[0] == "-m":
        sys.argv, sys.path[0] = command[1:], str(Path.cwd())
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *command[2:]], ""
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    with socket.socket(fileno=int(sys.argv[1])) as control:
        from fasttrain.tracking.store import set_environment

        set_environment()  # the tracker does this before it imports MLflow
        for name in sys.argv[2:]:
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(name)
        gc.collect()
        gc.freeze()
        control.send(b"ready")
        request = serve(control)
        if request is not None:
            try:
                become(*request)
            except BaseException as error:
                control.send(repr(error).encode())
                os._exit(1)
            control.send(str(os.getpid()).encode())
    if request is not None:
        command = request[0]["command"]
        leave(lambda: run(command))
