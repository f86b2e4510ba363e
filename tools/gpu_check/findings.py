"""Figures, goals and failures of one check, kept in a file that is rewritten after each of them."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAST_LINES = 12
"""How many lines of a failure are kept."""


class Skipped(Exception):
    """A part of a check can't run here; its text says why."""


class Findings:
    """The findings of one check.

    `figures` are what was measured, `failures` the parts that failed, each with its last lines, `missed` the goals that
    were not reached, and `skipped` the parts that could not run here, each with the reason.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.figures: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.missed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def figure(self, name: str, value: Any) -> None:
        """Note a figure: a number, a truth value or a few words."""
        self.figures[name] = round(value, 4) if isinstance(value, float) else value
        self.save()

    def goal(self, name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Note a figure and, where it lies outside of its bounds, that the goal is missed."""
        if at_least is not None and not value >= at_least:
            self.missed[name] = f"{value:.4g}, to be at least {at_least:g}"
        if at_most is not None and not value <= at_most:
            self.missed[name] = f"{value:.4g}, to be at most {at_most:g}"
        self.figure(name, value)

    def skip(self, name: str, reason: str) -> None:
        """Note that the part `name` can't run here."""
        self.skipped[name] = reason
        self.save()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part of the check. Where it fails, that is noted, and the check continues with the next part."""
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
        """Write everything to the file, in one piece."""
        if self._file is None:
            return
        beside = self._file.with_suffix(".tmp")
        beside.write_text(json.dumps(self.to_dict(), indent=1, default=str))
        beside.replace(self._file)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON can hold them."""
        return {
            "figures": self.figures,
            "failures": self.failures,
            "missed": self.missed,
            "skipped": self.skipped,
        }
