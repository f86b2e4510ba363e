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
    """Decides when the run in the folder `run` is saved, and writes its checkpoints on rank 0.

    On other ranks `save` writes nothing. `due`, `save` and `wait` raise UserError on rank 0 if an earlier checkpoint
    could not be written.
    """

    def __init__(self, run: Path, every: SaveEvery, keep: int, main: bool = True) -> None:
        self._every = every
        self._writer = CheckpointWriter(run, keep) if main else None
        self._saved_at = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Return whether so many seconds have passed on rank 0 that a checkpoint is due. False on other ranks."""
        seconds = self._every.seconds if self._writer else None
        return seconds is not None and time.monotonic() - self._saved_at >= seconds

    def due(self, step: int, overdue: bool) -> bool:
        """Return whether to save after `step`: if `overdue`, or if the number of steps says so.

        `overdue`: whether `Saving.overdue` was true on any rank.
        """
        if self._writer:
            self._writer.check()
        return overdue or (self._every.steps is not None and step % self._every.steps == 0)

    def save(self, state: dict[str, Any]) -> None:
        """Copy `state`, and write the copy as a checkpoint in the background."""
        if self._writer:
            self._writer.save(state)
        self._saved_at = time.monotonic()

    def wait(self) -> Path | None:
        """Wait until all checkpoints are on the disk. Return the last one's path on rank 0, None on other ranks."""
        return self._writer.wait() if self._writer else None

    def settle(self) -> None:
        """Wait for pending writes, but only log their errors: for a run that already fails for another reason."""
        try:
            self.wait()
        except Exception:
            log.exception("the last checkpoint was not written")
