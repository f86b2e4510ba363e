"""Start several ranks (processes that train together) on this machine and wait for them: `train --gpus`.

torch's elastic launcher doesn't fit: it kills the ranks 30 s after a Ctrl-C, even if they are still saving. If it is
killed itself, the ranks keep running. And it exits with 1, whatever the exit codes of the ranks are.
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
from fasttrain.text import counted

_POLL_S = 0.1
_AFTER_A_KILL_S = 10.0  # enough for the other ranks to notice a closed socket; a GPU's collective never does
_AFTER_AN_END_S = 60.0  # rank 0 may still be writing the error of the run
_INTERRUPTED_S = 5.0  # between the second Ctrl-C and SIGKILL
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_PROGRAM = """import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path[:] = json.loads(sys.argv.pop())
del sys.argv[0]
from fasttrain.cli.rank import main
main()"""

_RESUME = "--resume auto continues from the last checkpoint"

Answer = Callable[[Any], Any]


class RankTraceback(Exception):
    """The text of the traceback of an error on a rank.

    The process that started the ranks raises the error again, with this exception as its `__cause__`.
    """


def require_devices(device: str, gpus: int) -> None:
    """Raise UserError if this machine has fewer than `gpus` CUDA devices. If `device` is "cpu", accept any number."""
    if device == "cpu":
        return
    have = torch.cuda.device_count()
    if have < gpus:
        fix = f"use --gpus {have}" if have else "use --device cpu for that many CPU processes"
        raise UserError(f"gpus = {gpus}: this machine has {counted(have, 'CUDA device')}; {fix}")


def run_in_ranks(
    work: Callable[[Answer], Any],
    count: int,
    stop: StopRequest,
    console: Console | None = None,
    answer: Answer | None = None,
) -> Any:
    """Start `count` processes (ranks) that train together, run `work` in each, and return the result of rank 0.

    `work` is pickled. Its argument is a function `ask(value)`: a rank that calls it gets the result of `answer(value)`,
    which runs in this process. If `stop` catches a signal, this process passes it on to the ranks. The ranks print to
    `console`, or to the streams of this process if it is None. Raises the error of the first rank that fails, and
    PeerLost if a rank ends without an error message.
    """
    if WINDOWS:
        raise UserError(f"gpus = {count}: fasttrain starts several processes on Linux and macOS only; leave out gpus")
    try:
        payload = cloudpickle.dumps(work)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"gpus = {count}: the model or a callback can't be pickled for another process ({reason}); pass a function "
            "that creates it instead"
        ) from error
    with _store() as port, _Group(count, port, payload, console) as group:
        return group.follow(stop, answer)


@contextmanager
def _store() -> Iterator[int]:
    """Serve the store through which the ranks find each other, on the loopback interface only. Yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    try:
        yield port
    finally:
        del store  # even if a traceback keeps this frame alive


class _Rank:
    """A process of one rank, with the connection that carries its work, its questions and its result."""

    def __init__(self, number: int, environment: dict[str, str], out: TextIO | int | None, err: TextIO | None) -> None:
        self.number = number
        self.report: tuple[str, Any] | None = None
        self.killed = False
        self.connection, remote_end = Pipe()
        paths = json.dumps([str(each) for each in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.argv, str(remote_end.fileno()), paths],
            pass_fds=[remote_end.fileno()],
            env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdin=subprocess.DEVNULL,
            stdout=out if out is None or isinstance(out, int) else subprocess.PIPE,
            stderr=None if err is None else subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # a terminal's Ctrl-C reaches only this process, which passes it on once
        )
        remote_end.close()
        self._relays = [
            threading.Thread(target=_relay, args=pair, daemon=True)
            for pair in ((self.process.stdout, out), (self.process.stderr, err))
            if pair[0] is not None
        ]
        for relay in self._relays:
            relay.start()

    def kill(self) -> None:
        """Kill the process if it is still running."""
        if self.process.poll() is None:
            self.killed = True
            self.process.kill()

    def close(self) -> None:
        """Wait until the process has ended and its output is printed, and close the connection."""
        self.process.wait()
        for relay in self._relays:
            relay.join(10.0)
        self.connection.close()


class _Group:
    """The group of ranks, as a context manager that starts them and ends all of them."""

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
                with suppress(OSError):  # the rank has ended already, which `follow` reports
                    rank.connection.send_bytes(self._payload)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is KeyboardInterrupt:  # the second Ctrl-C
                self._send_signal(signal.SIGINT)
                end = time.monotonic() + _INTERRUPTED_S
                while self._running() and time.monotonic() < end:
                    time.sleep(_POLL_S)
        finally:
            for rank in self._ranks:
                rank.kill()
                rank.close()

    def follow(self, stop: StopRequest, answer: Answer | None) -> Any:
        """Wait until all ranks have ended, and return rank 0's result. Raises as `run_in_ranks` does."""
        stop_sent, end = False, float("inf")
        while self._running():
            for rank in self._ready():
                self._receive(rank, answer)
            if stop.requested and not stop_sent:
                stop_sent = True
                self._send_signal(stop.requested)
            end = min(end, time.monotonic() + self._patience(stop_sent))
            if time.monotonic() > end:
                for rank in self._running():
                    rank.kill()
        for rank in self._ranks:
            while not rank.connection.closed and rank.connection.poll():
                self._receive(rank, answer)
        return self._outcome(stop)

    def _running(self) -> list[_Rank]:
        return [rank for rank in self._ranks if rank.process.poll() is None]

    def _send_signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            rank.process.send_signal(number)

    def _ready(self) -> list[_Rank]:
        """Return the ranks that have sent something, after waiting for at most `_POLL_S` seconds."""
        connected = [rank for rank in self._ranks if not rank.connection.closed]
        if not connected:
            time.sleep(_POLL_S)
            return []
        ready = wait([rank.connection for rank in connected], _POLL_S)
        return [rank for rank in connected if rank.connection in ready]

    def _receive(self, rank: _Rank, answer: Answer | None) -> None:
        """Read one message of `rank`: answer its question, or store its report.

        Close the connection if the rank has closed it.
        """
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

    def _patience(self, stop_sent: bool) -> float:
        """Return how many seconds the other ranks may keep running after a rank has ended.

        Infinite while all ranks run, and while they stop as requested.
        """
        codes = [rank.process.returncode for rank in self._ranks if rank.process.returncode is not None]
        if any(code < 0 for code in codes):
            return _AFTER_A_KILL_S
        if self._ranks[0].report is not None or (codes and not stop_sent):
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
                why = ", perhaps by the kernel because memory ran out" if name == "SIGKILL" else ""
                raise PeerLost(f"rank {rank.number} was ended by {name}{why}; {_RESUME}")
        if stop.requested is signal.SIGINT:
            raise KeyboardInterrupt
        if stop.requested:
            raise Stopped(f"stopped by {stop.requested.name}; run the same command again")
        if errors:
            raise errors[0]
        for rank in self._ranks:
            if rank.report is None and not rank.killed:
                code = rank.process.returncode
                raise PeerLost(f"rank {rank.number} ended with exit code {code} and no error message; {_RESUME}")
        raise PeerLost(f"the ranks lost the connection to each other; {_RESUME}")


def _streams(console: Console | None) -> tuple[TextIO | int | None, TextIO | None]:
    """Return where the ranks' output and error output go. None: they inherit the stream of this process.

    The streams of a notebook or a test are not files, so another process can't write to them directly.
    """
    err = None if _has_descriptor(sys.stderr, 2) else sys.stderr
    if console is not None and console.quiet:
        return subprocess.DEVNULL, err
    out: Any = sys.stdout if console is None else console.file
    return (None if _has_descriptor(out, 1) else out), err


def _has_descriptor(stream: Any, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (AttributeError, OSError, ValueError):
        return False


def _relay(source: TextIO, target: TextIO) -> None:
    with suppress(ValueError):  # the target was closed
        for line in source:
            target.write(line)
            target.flush()
