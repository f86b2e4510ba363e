"""Start several ranks on this machine, and follow them to their end: `train --gpus`.

torch's elastic launcher isn't used, as its contract is another one: it kills the ranks 30 s after a Ctrl-C, whatever
they have to save, leaves them running when it is killed itself, and ends with 1 whatever they ended with.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe, wait
from typing import Any, TextIO

import cloudpickle
import torch
import torch.distributed as dist
from rich.console import Console

from fasttrain.cores import threads_of_each
from fasttrain.errors import FasttrainError, Stopped, UserError, one_line
from fasttrain.machine import WINDOWS
from fasttrain.ranks import PeerLost
from fasttrain.stop import StopRequest

_LOOK_S = 0.1
_AFTER_A_KILL_S = 10.0  # within which the others notice a closed socket; a GPU's collective never does
_AFTER_AN_END_S = 60.0  # as rank 0 may still write what the run failed with
_AT_ONCE_S = 5.0
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_PROGRAM = """import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path[:] = json.loads(sys.argv.pop())
del sys.argv[0]
from fasttrain.cli.rank import main
main()"""

_AGAIN = "--resume auto goes on from the last checkpoint"

Answer = Callable[[Any], Any]


class RankTraceback(Exception):
    """The text of an error's traceback on its rank, shown as the cause of the error here."""


def require_devices(device: str, gpus: int) -> None:
    """Check that this machine has `gpus` CUDA devices, unless `device` is the CPU. Raises UserError."""
    if device == "cpu":
        return
    have = torch.cuda.device_count()
    if have < gpus:
        fix = f"use --gpus {have}" if have else "use --device cpu, where it is the number of processes"
        raise UserError(f"gpus = {gpus}: this machine has {have} CUDA device{'' if have == 1 else 's'}; {fix}")


def run_in_ranks(
    work: Callable[[Answer], Any],
    count: int,
    stop: StopRequest,
    console: Console | None = None,
    answer: Answer | None = None,
) -> Any:
    """Return what `work` returns on rank 0 of `count` new processes, which train together.

    `work` is pickled, and called with a function that asks this process: it returns what `answer` returns. What `stop`
    requests, the ranks are told. They print where this process prints, or on `console`. Raises what the first rank
    raises; PeerLost where one ends without a word.
    """
    if WINDOWS:
        raise UserError(f"gpus = {count}: several processes are started on Linux and macOS only; leave it out")
    try:
        payload = cloudpickle.dumps(work)
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"gpus = {count}: the model or a callback can't be sent to another process ({said}); give functions that "
            "make what can't be pickled"
        ) from error
    with _store() as port, _Group(count, port, payload, console) as group:
        return group.follow(stop, answer)


@contextmanager
def _store() -> Iterator[int]:
    """Serve the store at which the ranks find each other, on the loopback interface only. Yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    try:
        yield port
    finally:
        del store  # also where a traceback keeps this frame


class _Rank:
    """A process, and the connection that carries its work, its questions and its result."""

    def __init__(self, number: int, environment: dict[str, str], out: TextIO | int | None, err: TextIO | None) -> None:
        self.number = number
        self.report: tuple[str, Any] | None = None
        self.killed = False
        self.connection, theirs = Pipe()
        paths = json.dumps([str(each) for each in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.argv, str(theirs.fileno()), paths],
            pass_fds=[theirs.fileno()],
            env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdin=subprocess.DEVNULL,
            stdout=out if out is None or isinstance(out, int) else subprocess.PIPE,
            stderr=None if err is None else subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
        )
        theirs.close()
        self._relays = [
            threading.Thread(target=_relay, args=pair, daemon=True)
            for pair in ((self.process.stdout, out), (self.process.stderr, err))
            if pair[0] is not None
        ]
        for relay in self._relays:
            relay.start()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.killed = True
            self.process.kill()

    def close(self) -> None:
        self.process.wait()
        for relay in self._relays:
            relay.join(10.0)
        self.connection.close()


class _Group:
    """The group of ranks; a context manager that leaves none of them running."""

    def __init__(self, count: int, port: int, payload: bytes, console: Console | None) -> None:
        self._payload = payload
        self._environment = {
            **os.environ,
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": f"fasttrain-{os.getpid()}-{port}",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", _LOOPBACK),
            **threads_of_each(count),
        }
        self._out, self._err = _streams(console)
        if self._out is not None:
            self._environment.pop("FORCE_COLOR", None)  # set in notebooks: rich would draw its bars into the pipe
            if console is not None:
                self._environment["COLUMNS"] = str(console.width)
        self._count = count
        self._ranks: list[_Rank] = []

    def __enter__(self) -> _Group:
        try:
            for number in range(self._count):
                self._ranks.append(_Rank(number, self._environment, self._out, self._err))
            for rank in self._ranks:
                with suppress(OSError):  # it has ended already, which `follow` sees
                    rank.connection.send_bytes(self._payload)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is KeyboardInterrupt:  # the second Ctrl-C
                self._tell(signal.SIGINT)
                end = time.monotonic() + _AT_ONCE_S
                while self._running() and time.monotonic() < end:
                    time.sleep(_LOOK_S)
        finally:
            for rank in self._ranks:
                rank.kill()
                rank.close()

    def follow(self, stop: StopRequest, answer: Answer | None) -> Any:
        """Return rank 0's result when all have ended. Raises as `run_in_ranks` does."""
        told, end = False, float("inf")
        while self._running():
            for rank in self._ready():
                self._hear(rank, answer)
            if stop.requested and not told:
                told = True
                self._tell(stop.requested)
            end = min(end, time.monotonic() + self._patience(told))
            if time.monotonic() > end:
                for rank in self._running():
                    rank.kill()
        for rank in self._ranks:
            while not rank.connection.closed and rank.connection.poll():
                self._hear(rank, answer)
        return self._outcome(stop)

    def _running(self) -> list[_Rank]:
        return [rank for rank in self._ranks if rank.process.poll() is None]

    def _tell(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            rank.process.send_signal(number)

    def _ready(self) -> list[_Rank]:
        """Return the ranks that have sent something, after a short wait at most."""
        open_ones = [rank for rank in self._ranks if not rank.connection.closed]
        if not open_ones:
            time.sleep(_LOOK_S)
            return []
        ready = wait([rank.connection for rank in open_ones], _LOOK_S)
        return [rank for rank in open_ones if rank.connection in ready]

    def _hear(self, rank: _Rank, answer: Answer | None) -> None:
        """Answer the rank's question, or note its report. Closes the connection where the rank has closed it."""
        try:
            kind, value = pickle.loads(rank.connection.recv_bytes())
        except (EOFError, OSError):
            rank.connection.close()
            return
        if kind == "error":
            value, trace = value
            value.__cause__ = RankTraceback(trace)
        if kind != "ask":
            rank.report = (kind, value)
            return
        try:
            reply = ("answer", answer(value) if answer else None)
        except Exception as error:
            reply = ("raise", error)
        with suppress(OSError):
            rank.connection.send_bytes(cloudpickle.dumps(reply))

    def _patience(self, told: bool) -> float:
        """Return the seconds left once a rank has ended; infinite while all run, or stop as requested."""
        codes = [rank.process.returncode for rank in self._ranks if rank.process.returncode is not None]
        if any(code < 0 for code in codes):
            return _AFTER_A_KILL_S
        if self._ranks[0].report is not None or (codes and not told):
            return _AFTER_AN_END_S
        return float("inf")

    def _outcome(self, stop: StopRequest) -> Any:
        reports = [rank.report for rank in self._ranks if rank.report is not None]
        if (first := self._ranks[0].report) is not None and first[0] == "result":
            return first[1]
        errors = [value for _, value in reports if isinstance(value, BaseException)]
        errors = [each for each in errors if not isinstance(each, PeerLost)]
        for error in errors:
            if isinstance(error, (FasttrainError, KeyboardInterrupt)):
                raise error
        for rank in self._ranks:
            code = rank.process.returncode
            if code < 0 and not rank.killed and -code != stop.requested:
                name = signal.Signals(-code).name
                why = ", as the kernel does where memory runs out" if name == "SIGKILL" else ""
                raise PeerLost(f"rank {rank.number} was ended by {name}{why}; {_AGAIN}")
        if stop.requested is signal.SIGINT:
            raise KeyboardInterrupt
        if stop.requested:
            raise Stopped(f"stopped by {stop.requested.name}; the same command starts again")
        if errors:
            raise errors[0]
        for rank in self._ranks:
            if rank.report is None and not rank.killed:
                code = rank.process.returncode
                raise PeerLost(f"rank {rank.number} ended with exit code {code} and without a word; {_AGAIN}")
        raise PeerLost(f"the ranks lost the connection between them; {_AGAIN}")


def _streams(console: Console | None) -> tuple[TextIO | int | None, TextIO | None]:
    """Return where the ranks' output and error output go; None where they inherit this process's own.

    A notebook's or a test's streams are no files that another process could write to.
    """
    err = None if _is(sys.stderr, 2) else sys.stderr
    if console is not None and console.quiet:
        return subprocess.DEVNULL, err
    out: Any = sys.stdout if console is None else console.file
    return (None if _is(out, 1) else out), err


def _is(stream: Any, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (AttributeError, OSError, ValueError):
        return False


def _relay(source: TextIO, target: TextIO) -> None:
    with suppress(ValueError):  # a file that was closed
        for line in source:
            target.write(line)
            target.flush()
