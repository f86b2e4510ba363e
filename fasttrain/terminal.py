"""Where a command says what it does: prose and bars for people, or one JSON object a line for machines."""

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
    """`--log-format json`: each line is an object with `time` (UTC, ISO 8601), `event` and that event's values.

    What is only prose elsewhere comes as `{"event": "message", "text": …}`. Numbers that JSON can't hold are null.
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
    """The console of `--log-format`, text or json.

    Strings are printed as they are: `[`, `]` and numbers in them are the user's, no mark-up.
    """
    if log_format == "json":
        return JsonConsole(quiet=quiet)
    return Console(quiet=quiet, stderr=stderr, markup=False, highlight=False)


def bar(console: Console, said: ProgressColumn | None = None) -> Progress:
    """A bar for people that is gone when it is done: title, share, count, what `said` says, the time left.

    It is drawn in a terminal or a notebook only.
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
    """Something that has both: `values` for a machine, or else `prose` for people.

    `wrap`: breaks lines between words, in a terminal or a notebook; a path or a command stays whole without.
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
