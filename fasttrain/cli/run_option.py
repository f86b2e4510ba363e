"""Commands whose first argument is a run, which may also be given as `--checkpoint`, as other commands take it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

_OPTION = "--checkpoint"


class RunCommand(TyperCommand):
    """A command that takes a run as its first argument or as `--checkpoint`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_run_first(args))


def with_run_first(arguments: list[str]) -> list[str]:
    """Return `arguments` with the value of `--checkpoint`, if it is among them, moved to the first place."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == _OPTION and equals:
            return [value, *arguments[:at], *arguments[at + 1 :]]
        if name == _OPTION:
            return [*arguments[at + 1 : at + 2], *arguments[:at], *arguments[at + 2 :]]
    return arguments
