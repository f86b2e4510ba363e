"""Find where the host waits for the GPU, by torch's synchronization debug mode."""

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
"""The functions in which a run's loop looks at the device."""


class Syncs:
    """Counts the operations that make the host wait for the GPU, by the line of fasttrain that began them.

    Those of a run's planned looks at the device count apart, in `planned`. Torch's mode "error" would end at the first
    of them; "warn" names all in one run.
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self.places: Counter[str] = Counter()
        self.planned = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count while it lasts."""
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
        """Take a warning, as `warnings.showwarning` does."""
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
        """Return the places with their counts, the most frequent first."""
        return ", ".join(f"{place} x {count}" for place, count in self.places.most_common(6)) or "none"


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])
