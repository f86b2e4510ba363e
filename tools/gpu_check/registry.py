"""The checks by name. Each is a function that notes figures, and raises an error if something is wrong."""

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

    `folder`: a folder for this check only. `data`: the folder with the results of the check `data`: `photographs`,
    `shards` and, on CUDA, `many`, shards with many copies of each photograph. `limit`: the number of seconds that the
    check may take.
    """

    device: str
    folder: Path
    data: Path
    limit: float
    photographs: Path | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def cuda(self) -> bool:
        """Return whether the check runs on a GPU. On a CPU it is a rehearsal."""
        return self.device.startswith("cuda")

    @property
    def shards(self) -> Path:
        """Return the folder of shards with a few hundred photographs."""
        return self.data / "shards"

    @property
    def many(self) -> Path:
        """Return the folder of shards with enough photographs to keep a GPU busy. In a rehearsal this is `shards`."""
        return self.data / ("many" if self.cuda else "shards")

    def left(self) -> float:
        """Return how many seconds the check has left."""
        return self.limit - (time.monotonic() - self.began)


Function = Callable[[Setting, Findings], Any]


@dataclass(frozen=True)
class Check:
    """A check: its number in the order, its name, its title in the report, and its time limit in seconds."""

    number: int
    name: str
    title: str
    limit: float
    needs_cuda: bool
    function: Function


_checks: list[Check] = []


def check(number: int, title: str, *, limit: float, needs_cuda: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as a check under the function's name.

    `number`: the check's place in the order. `title`: its title in the report. `limit`: its time limit in seconds.
    """

    def register(function: Function) -> Function:
        _checks.append(Check(number, function.__name__, title, limit, needs_cuda, function))
        return function

    return register


def find_checks(modules: Sequence[str] = MODULES) -> list[Check]:
    """Return the checks of `modules` in the order of their numbers. This doesn't import torch, as only a check does."""
    for module in modules:
        importlib.import_module(module)
    found = [each for each in _checks if each.function.__module__ in modules]
    return sorted(found, key=lambda each: each.number)
