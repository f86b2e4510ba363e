"""When a run is saved, and that it is rank 0 which writes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.writer import CheckpointWriter
from fasttrain.config.values import SaveEvery

log = logging.getLogger("fasttrain")


class Saving:
    """The checkpoints of a run in the folder `run`, on one of its ranks; those above 0 only follow.

    Every method but `overdue` raises UserError where an earlier checkpoint could not be written.
    """

    def __init__(self, run: Path, every: SaveEvery, keep: int, main: bool = True) -> None:
        self._every = every
        self._writer = CheckpointWriter(run, keep) if main else None
        self._saved_at = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether rank 0's clock says so; the others leave it to that one."""
        seconds = self._every.seconds if self._writer else None
        return seconds is not None and time.monotonic() - self._saved_at >= seconds

    def due(self, step: int, overdue: bool) -> bool:
        """Whether to save after `step`, where any rank was `overdue`."""
        if self._writer:
            self._writer.check()
        return overdue or (self._every.steps is not None and step % self._every.steps == 0)

    def save(self, state: dict[str, Any]) -> None:
        """Copies `state` and writes it while training goes on."""
        if self._writer:
            self._writer.save(state)
        self._saved_at = time.monotonic()

    def wait(self) -> Path | None:
        """Until all is on the disk: the last checkpoint, on rank 0."""
        return self._writer.wait() if self._writer else None

    def settle(self) -> None:
        """Lets what is being written end, for a run that fails of something else."""
        try:
            self.wait()
        except Exception:
            log.exception("the last checkpoint was not written")
