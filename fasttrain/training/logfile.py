"""Keep a run's warnings and stack trace in `train.log`, without which the run goes on."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from fasttrain.errors import of_os


class RunLog(logging.FileHandler):
    """Write the file at `path`, from the first record on. Where that can't be done, `say` is told once."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._say, self._refused = say, False

    @property
    def kept(self) -> bool:
        """True if the file holds everything that was logged so far."""
        return not self._refused

    def emit(self, record: logging.LogRecord) -> None:
        if self._refused:
            return
        try:
            super().emit(record)
        except OSError as error:  # raised where the file can't be made; logging catches what a write raises
            self._refuse(error)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._refuse(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left of a line that found no room
            super().close()

    def _refuse(self, error: OSError) -> None:
        self._refused = True
        self._say(f"the log can't be kept ({of_os(error, self.baseFilename)}); the run goes on without")
        self.close()
