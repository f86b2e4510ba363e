"""Print the output of commands: text and progress bars for people, or one JSON object per line for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


class JsonConsole(Console):
    """The console of `--log-format json`. Each line is an object with `time` (UTC, ISO 8601), `event` and its values.

    Other printed text becomes `{"event": "message", "text": …}`. NaN and infinity, which JSON lacks, become null.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(force_terminal=False, **options)

    def print(self, *objects: Any, **_: Any) -> None:
        self.event("message", {"text": " ".join(map(str, objects)).strip()})

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Print one line with the event `name` and its `values`, unless the console is quiet."""
        if self.quiet:
            return
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": name, **values}
        sys.stdout.write(json.dumps(_as_json(line), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()


def make_console(log_format: str = "text", *, quiet: bool = False, stderr: bool = False) -> Console:
    """Return the console for a `log_format`, "text" or "json".

    Strings are printed unchanged: `[`, `]` and numbers in them are not treated as mark-up. `quiet`: print nothing.
    """
    if log_format == "json":
        return JsonConsole(quiet=quiet)
    return Console(quiet=quiet, stderr=stderr, markup=False, highlight=False)


def bar(console: Console, column: ProgressColumn | None = None) -> Progress:
    """Return a progress bar: its title, the bar, the count, the extra `column`, and the time left.

    It is only drawn in a terminal or a notebook, and disappears when it is done.
    """
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        *((column,) if column else ()),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not (console.is_terminal or console.is_jupyter),
    )


def tell(
    console: Console, event: str, values: Mapping[str, Any], prose: str | RenderableType, *, wrap: bool = False
) -> None:
    """Print `prose`; on a JsonConsole write the object of `event` with `values` instead.

    `wrap` breaks lines between words in a terminal or a notebook. Without it a path or a command stays on one line.
    """
    if isinstance(console, JsonConsole):
        console.event(event, values)
    else:
        console.print(prose, soft_wrap=not (wrap and (console.is_terminal or console.is_jupyter)))


def _as_json(value: Any) -> Any:
    """Return `value` with only types and numbers that JSON has; other objects become text."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
