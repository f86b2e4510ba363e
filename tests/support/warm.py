"""Start Python programs that need not import torch, timm and MLflow again, which takes longer than most tests.

`Popen` and `run` are those of `subprocess` but for `command`, which lacks the interpreter. The program is a child of
this process, forked from a server that has done the imports (`warm_server.py`). What happens while Python starts and
imports is not tested so, nor that nothing depends on the order of sets, which is the same in all: tests of these use
`subprocess`.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SUBREAPER = 36
_IMPORTED = (
    *("fasttrain.cli", "fasttrain.commands.train", "fasttrain.commands.replay", "fasttrain.checkpoint.writer"),
    *("fasttrain.loaders.native", "fasttrain.loaders.torchvision", "torchvision.transforms.v2", "torch.utils.data"),
    *("fasttrain.report.charts", "fasttrain.report.figures", "matplotlib.backends.backend_agg"),
    *("matplotlib.backends.backend_svg", "matplotlib.font_manager", "scipy.stats"),
    *("timm", "timm.optim", "timm.scheduler", "torch._dynamo", "torch.distributed"),  # optimizers import dynamo to step
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking", "alembic.command", "sqlalchemy.dialects.sqlite"),
    *("matplotlib.figure", "jinja2.compiler", "PIL.JpegImagePlugin", "tomli_w", "fasttrain._native"),
    *("nvidia.dali.plugin.pytorch", "numba"),  # not FFCV, which starts a thread
)
# Variables that programs read when they run, not when they import: one server does for all values of these.
_READ_LATE = {
    *("COLUMNS", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTEST_CURRENT_TEST", "PWD"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"),
    *("FASTTRAIN_CACHE", "FASTTRAIN_DEBUG", "FASTTRAIN_SERVE_TOKEN"),
    *("KILL_UNDER", "KILL_LOG", "KILL_KEY", "KILL_AT", "KILL_HOW", "KILL_SIGNAL", "KILL_GROUP"),
}


class Server:
    """A process that has imported `modules` with `environment`; it ends with this one, or with `close`."""

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str]) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm_server.py")), str(other.fileno()), *modules],
            cwd="/",
            env=environment,
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
        other.close()
        self._answer()

    def start(self, descriptors: Sequence[int], **request: Any) -> int:
        """Return the process ID of a program, a child of this process."""
        with _adopting():
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            (child,) = {self._answer(), self._answer()} - {b"ready"}
        if not child.isdigit():
            raise OSError(child.decode())
        return int(child)

    def close(self) -> None:
        self._control.close()
        self._process.wait()
        self._errors.close()

    def _answer(self) -> bytes:
        if answer := self._control.recv(1024):
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        raise RuntimeError(f"the warm server has ended ({code}): {self._errors.read().decode(errors='replace')}")


@contextmanager
def _adopting() -> Iterator[None]:
    """Have the kernel give this process the children of its children that end."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SUBREAPER, 0, 0, 0, 0)


_servers: dict[frozenset[tuple[str, str]], Server] = {}


def _server_for(environment: Mapping[str, str]) -> Server:
    key = frozenset((name, value) for name, value in environment.items() if name not in _READ_LATE)
    if key not in _servers:
        _servers[key] = Server(dict(key), _IMPORTED)
    return _servers[key]


@atexit.register
def _close() -> None:
    for server in _servers.values():
        server.close()


class Popen(subprocess.Popen[Any]):
    """A `subprocess.Popen` of `python COMMAND` from `server`, or from one that fits its environment."""

    def __init__(self, command: Sequence[str], *, server: Server | None = None, **options: Any) -> None:
        self._server = server
        super().__init__(command, **options)

    def _execute_child(self, command: Sequence[str], *options: Any) -> None:  # private, but the same since Python 3.9
        _, preexec_fn, _, pass_fds, cwd, environment, _, _, shell, *pipes = options[:15]
        assert not (preexec_fn or pass_fds or shell), "not for a program that is forked"
        environment = dict(os.environ if environment is None else environment)
        server = self._server or _server_for(environment)
        ours = [pipes[at] if pipes[at] >= 0 else number for number, at in enumerate((0, 3, 5))]
        self.pid = server.start(
            ours,
            command=[os.fspath(each) for each in command],
            environment=environment,
            cwd=os.fspath(cwd or Path.cwd()),
            new_session=options[20],
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(command: Sequence[str], *, timeout: float | None = None, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run `python COMMAND` to its end, as `subprocess.run` does; always captures what it prints."""
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            out, error = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, error)
