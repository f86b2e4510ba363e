"""The checks, by name: each is a function that notes figures and raises where something is wrong."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.gpu_check.findings import Findings

MODULES = tuple(
    f"tools.gpu_check.checks.{name}"
    for name in ("machine", "steps", "memory", "speed", "races", "compiling", "repeating", "dali", "ranks", "profiling")
)
"""The modules that hold the checks."""


@dataclass(frozen=True)
class Setting:
    """The device and the files that a check may use.

    `folder` is its own. `data` holds what the check `data` has made: `photographs`, `shards`, and on CUDA `many`,
    shards of the same photographs many times. `limit` is the number of seconds that the check has.
    """

    device: str
    folder: Path
    data: Path
    limit: float
    photographs: Path | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def cuda(self) -> bool:
        """Return whether this is the real thing, not a rehearsal."""
        return self.device.startswith("cuda")

    @property
    def shards(self) -> Path:
        """Return the folder of shards with a few hundred photographs."""
        return self.data / "shards"

    @property
    def many(self) -> Path:
        """Return the folder of shards with photographs enough to keep a GPU busy."""
        return self.data / ("many" if self.cuda else "shards")

    def left(self) -> float:
        """Return how many seconds the check has left."""
        return self.limit - (time.monotonic() - self.began)


Function = Callable[[Setting, Findings], Any]


@dataclass(frozen=True)
class Check:
    """A check: its place in the order, its name, what it shows, and the most seconds that it may take."""

    number: int
    name: str
    title: str
    limit: float
    needs_cuda: bool
    function: Function


_checks: list[Check] = []


def check(number: int, title: str, *, limit: float, needs_cuda: bool = False) -> Callable[[Function], Function]:
    """Register a function as a check under its own name."""

    def register(function: Function) -> Function:
        _checks.append(Check(number, function.__name__, title, limit, needs_cuda, function))
        return function

    return register


def find_checks(modules: Sequence[str] = MODULES) -> list[Check]:
    """Return the checks of `modules` in the order of their numbers. Only a check that runs imports torch."""
    for module in modules:
        importlib.import_module(module)
    found = [each for each in _checks if each.function.__module__ in modules]
    return sorted(found, key=lambda each: each.number)
