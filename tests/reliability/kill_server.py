"""Runs `fasttrain` in forked children, one at a time, so that each need not import torch again.

    python tests/reliability/kill_server.py MODULE …

A request is a line of JSON: arguments, environment, said (the file for what it prints), and where it shall be killed at
an instant: after (seconds), once (a file from whose appearance on they count, or null), signal, group. The answer:
{"code": …, "orphans": how many processes that it started outlived it by two minutes}.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PATIENCE_S = 600.0
_SUBREAPER = 36
_SURVIVES = "jemalloc_bg_thd"  # pyarrow's, which starts it again in a child


def serve() -> dict[str, Any] | None:
    """Answers requests until there are no more; in a child, returns the request that it is to do."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        request = json.loads(line)
        threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        lost = [each for each in threads if each != _SURVIVES][1:]
        assert not lost, f"a fork would lose the threads {lost}"
        child = os.fork()
        if not child:
            return request
        answer = {"code": _outcome(child, request), "orphans": _orphans(child)}
        print(json.dumps(answer), flush=True)
    return None


def _outcome(child: int, request: dict[str, Any]) -> int:
    start, due = time.monotonic(), request.get("after")
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if now - start > _PATIENCE_S:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -999
        if due is not None and request.get("once") and not Path(request["once"]).exists():
            start = now
        elif due is not None and now - start >= due:
            due = None
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if request["group"] else os.kill)(child, request["signal"])
        time.sleep(0.001)


def _orphans(session: int) -> int:
    """Those of the child's session that are still there; they are ended then."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = [each for each in map(_stat, Path("/proc").glob("[0-9]*")) if each and each[1] == session]
        if not left or time.monotonic() > deadline:
            for pid, _ in left:
                os.kill(pid, signal.SIGKILL)
            return len(left)
        time.sleep(0.01)


def _stat(process: Path) -> tuple[int, int] | None:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(process.name), int(fields[3])


def become(request: dict[str, Any]) -> None:
    """Makes this child look like a process that was started for the request alone."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for old, new in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(old, new)
    os.environ.update(request["environment"])
    ctypes.CDLL(None).kill_at_again()
    if os.environ.get("KILL_WITHOUT_FIGURES"):
        from fasttrain.commands import finish

        finish._write_pictures = lambda *arguments: None  # they take two thirds of so short a run
    sys.argv = ["fasttrain", *request["arguments"]]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from leaving import leave  # beside this program

    from fasttrain.cli import main

    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    request = serve()
    if request is not None:
        become(request)
        leave(main)
