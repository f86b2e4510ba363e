"""Where a run says what it does: prose for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text


class JsonConsole(Console):
    """`--log-format json`: each line is an object with `time` (UTC, ISO 8601), `event` and that event's values.

    What is only prose elsewhere comes as `{"event": "message", "text": …}`. Numbers that JSON can't hold are null.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(force_terminal=False, **options)

    def print(self, *objects: Any, markup: bool | None = None, **_: Any) -> None:
        text = " ".join(
            str(each) if markup is False or not isinstance(each, str) else Text.from_markup(each).plain
            for each in objects
        )
        self.event("message", {"text": text.strip()})

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        if self.quiet:
            return
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": name, **values}
        sys.stdout.write(json.dumps(_held(line), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()


def make_console(log_format: str, *, quiet: bool = False) -> Console:
    """The console of `--log-format`, text or json."""
    return JsonConsole(quiet=quiet) if log_format == "json" else Console(quiet=quiet)


def tell(console: Console, event: str, values: Mapping[str, Any], prose: str | RenderableType) -> None:
    """Something that has both: `values` for a machine, or else `prose` for people."""
    if isinstance(console, JsonConsole):
        console.event(event, values)
    else:
        console.print(prose, soft_wrap=True)


def _held(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _held(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_held(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
