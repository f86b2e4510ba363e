"""Expand `~` in paths on the command line. A shell expands it only at the start of a word, not in `--out=~/runs`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fasttrain.config.location import user_path


def with_user_paths(command: Callable[..., None]) -> Callable[..., None]:
    """Return a function that calls `command` with `~` expanded in all arguments of type Path."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{name: _expanded(value) for name, value in given.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    return user_path(value) if isinstance(value, Path) else value
