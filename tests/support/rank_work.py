"""Work for the ranks in the tests of `fasttrain.launch`, without torch, whose import takes longer than these tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fasttrain.errors import UserError


def rank() -> int:
    return int(os.environ["RANK"])


def place(ask: Any) -> dict[str, str]:
    print(f"rank {rank()} prints", flush=True)
    print("and warns", file=sys.stderr, flush=True)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "COLUMNS")
    return {name: os.environ[name] for name in names if name in os.environ}


def questions(ask: Any) -> list[Any]:
    return [ask(number) for number in range(3)] if rank() == 0 else []


def refuse(ask: Any) -> None:
    """Raise a user's mistake on rank 0, and end the others with its exit code, as `Ranks` does."""
    if rank() == 0:
        raise UserError("data = nowhere: there is nothing; give --data a folder")
    raise SystemExit(2)


class Peculiar(Exception):
    """Can't be pickled, as many exceptions of libraries can't."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(ask: Any) -> None:
    raise Peculiar(1, 2)


def end(ask: Any, code: int, number: int = 1) -> None:
    """Rank `number` ends with an exit code, or by a signal where `code` is less than 0; the others hang."""
    if rank() == number:
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)
    time.sleep(600)


def hang(ask: Any, folder: Path, hears: bool) -> None:
    """Wait for ever, but for the first SIGINT if it `hears`."""
    if not hears:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    (folder / str(os.getpid())).touch()
    time.sleep(600)
