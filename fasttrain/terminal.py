"""Output of commands: prose and bars for people, or one JSON object per line for machines."""

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
    """The console of `--log-format json`: each line is an object with `time` (UTC, ISO 8601), `event` and its values.

    Plain prose becomes `{"event": "message", "text": …}`. Numbers that JSON can't hold are null.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(force_terminal=False, **options)

    def print(self, *objects: Any, **_: Any) -> None:
        self.event("message", {"text": " ".join(map(str, objects)).strip()})

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        if self.quiet:
            return
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": name, **values}
        sys.stdout.write(json.dumps(_held(line), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()


def make_console(log_format: str = "text", *, quiet: bool = False, stderr: bool = False) -> Console:
    """Return the console for `--log-format`, text or json.

    Strings are printed unchanged: `[`, `]` and numbers in them are not mark-up.
    """
    if log_format == "json":
        return JsonConsole(quiet=quiet)
    return Console(quiet=quiet, stderr=stderr, markup=False, highlight=False)


def bar(console: Console, said: ProgressColumn | None = None) -> Progress:
    """Return a bar for people that disappears when it is done: title, share, count, the column `said`, the time left.

    It is only drawn in a terminal or a notebook.
    """
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        *((said,) if said else ()),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not (console.is_terminal or console.is_jupyter),
    )


def tell(
    console: Console, event: str, values: Mapping[str, Any], prose: str | RenderableType, *, wrap: bool = False
) -> None:
    """Report something as `values` to a machine, or as `prose` to people.

    `wrap` breaks lines between words in a terminal or a notebook; without it a path or a command stays in one piece.
    """
    if isinstance(console, JsonConsole):
        console.event(event, values)
    else:
        console.print(prose, soft_wrap=not (wrap and (console.is_terminal or console.is_jupyter)))


def _held(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _held(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_held(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
