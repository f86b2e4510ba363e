"""Keep a run's warnings and stack traces in `train.log`. A run continues if the file can't be written."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from fasttrain.errors import of_os


class RunLog(logging.FileHandler):
    """Writes log records to the file at `path`, which is created with the first record.

    If the file can't be written, the run continues, and `say` is called once with a line that says so.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._say, self._refused = say, False

    @property
    def kept(self) -> bool:
        """Return whether the file holds everything logged so far. False if a record could not be written."""
        return not self._refused

    def emit(self, record: logging.LogRecord) -> None:
        if self._refused:
            return
        try:
            super().emit(record)
        except OSError as error:  # the file can't be created; errors of writing go to `handleError`
            self._refuse(error)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._refuse(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a partly written line
            super().close()

    def _refuse(self, error: OSError) -> None:
        self._refused = True
        self._say(f"the log can't be written ({of_os(error, self.baseFilename)}); the run continues without a log")
        self.close()
