"""Decide when a run is saved, and let rank 0 write its checkpoints."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.writer import CheckpointWriter
from fasttrain.config.values import SaveEvery

log = logging.getLogger("fasttrain")


class Saving:
    """The checkpoints of the run in the folder `run`. Rank 0 writes them; other ranks only keep time.

    Every method but `overdue` raises UserError if an earlier checkpoint could not be written.
    """

    def __init__(self, run: Path, every: SaveEvery, keep: int, main: bool = True) -> None:
        self._every = every
        self._writer = CheckpointWriter(run, keep) if main else None
        self._saved_at = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Return whether the next checkpoint is due by rank 0's clock. Always False on other ranks."""
        seconds = self._every.seconds if self._writer else None
        return seconds is not None and time.monotonic() - self._saved_at >= seconds

    def due(self, step: int, overdue: bool) -> bool:
        """Return whether to save after `step`. `overdue` says whether any rank was overdue."""
        if self._writer:
            self._writer.check()
        return overdue or (self._every.steps is not None and step % self._every.steps == 0)

    def save(self, state: dict[str, Any]) -> None:
        """Copy `state` and write it in the background."""
        if self._writer:
            self._writer.save(state)
        self._saved_at = time.monotonic()

    def wait(self) -> Path | None:
        """Wait until everything is on the disk. Return the last checkpoint's path on rank 0."""
        return self._writer.wait() if self._writer else None

    def settle(self) -> None:
        """Wait for pending writes of a run that fails for another reason. Their errors only go to the log."""
        try:
            self.wait()
        except Exception:
            log.exception("the last checkpoint was not written")
