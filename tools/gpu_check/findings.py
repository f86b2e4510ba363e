"""Figures, goals and failures of one check, kept in a file that is rewritten after each of them."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAST_LINES = 12
"""The number of lines that are kept of a failure's traceback."""


class Skipped(Exception):
    """Raised by a part of a check that can't run on this machine. The message says why."""


class Findings:
    """The findings of one check, by the name of the figure or part.

    `figures`: measured values. `failures`: the last lines of the traceback of each failed part. `missed`: goals that
    were not reached. `skipped`: why a part could not run on this machine. `file`: the JSON file to write, or None.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.figures: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.missed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def figure(self, name: str, value: Any) -> None:
        """Note the figure `name`: a number, a truth value or a few words."""
        self.figures[name] = round(value, 4) if isinstance(value, float) else value
        self.save()

    def goal(self, name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Note the figure `name`. If it is outside of its bounds, note that the goal is missed."""
        if at_least is not None and not value >= at_least:
            self.missed[name] = f"{value:.4g}, to be at least {at_least:g}"
        if at_most is not None and not value <= at_most:
            self.missed[name] = f"{value:.4g}, to be at most {at_most:g}"
        self.figure(name, value)

    def skip(self, name: str, reason: str) -> None:
        """Note that the part `name` can't run on this machine, and why."""
        self.skipped[name] = reason
        self.save()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Return a context for the part `name` of a check. An error in it is noted and not raised.

        So the check continues with the next part.
        """
        try:
            yield
        except Skipped as reason:
            self.skip(name, str(reason))
        except (Exception, SystemExit) as error:
            lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
            print("\n".join(lines), flush=True)
            self.failures[name] = "\n".join(lines[-LAST_LINES:])
            self.save()

    def save(self) -> None:
        """Write all findings to the file, completely or not at all."""
        if self._file is None:
            return
        beside = self._file.with_suffix(".tmp")
        beside.write_text(json.dumps(self.to_dict(), indent=1, default=str))
        beside.replace(self._file)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON data."""
        return {
            "figures": self.figures,
            "failures": self.failures,
            "missed": self.missed,
            "skipped": self.skipped,
        }
