"""Find the places where the host waits for the GPU, by torch's synchronization debug mode."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_PLANNED = ("require_finite", "means")
"""The functions in which a run intentionally waits for values from the device, once in many steps."""


class Syncs:
    """Counts the operations that make the host wait for the GPU.

    `places`: the number of waits by the line of fasttrain that caused them. `planned`: the number of the run's
    intended waits, which aren't in `places`. Torch's mode is "warn", because "error" would stop at the first wait.
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self.places: Counter[str] = Counter()
        self.planned = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the waits in this context."""
        if not self._cuda:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            warnings.showwarning = self.note
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def note(self, message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        """Count a warning of torch's debug mode. The arguments are those of `warnings.showwarning`."""
        if "synchronizing CUDA operation" not in str(message):
            return
        place = f"{_short(filename)}:{line}"
        for frame in traceback.extract_stack()[:-1]:
            if frame.name in _PLANNED:
                self.planned += 1
                return
            if "/fasttrain/" in frame.filename:
                place = f"{_short(frame.filename)}:{frame.lineno}"  # the innermost counts
        self.places[place] += 1

    @property
    def said(self) -> str:
        """Return the six places with the most waits and their counts as text, or "none"."""
        return ", ".join(f"{place} x {count}" for place, count in self.places.most_common(6)) or "none"


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])
