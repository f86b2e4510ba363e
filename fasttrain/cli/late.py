"""Commands with `train`'s options. These are made when they are first needed, because pydantic takes long to import."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from fasttrain.cli.paths import with_user_paths


@dataclass(frozen=True)
class SettingsCommand:
    """A command whose options for settings are added by `add_options`, once they are needed."""

    function: Callable[..., None]
    add_options: Callable[[Callable[..., None]], Callable[..., None]]

    @functools.cached_property
    def with_options(self) -> Callable[..., None]:
        """The function with an argument for each option, as typer takes it."""
        return self.add_options(self.function)

    def add_to(self, app: typer.Typer, name: str) -> None:
        """Add the command to `app`, which can list it with its help before the options are made."""
        make = self._make

        class Late(TyperCommand):
            made: Any = None

            @property
            def params(self) -> Any:
                if self.made is None:
                    self.made = make()
                    self.callback = self.made.callback
                return self.made.params

            @params.setter
            def params(self, _: Any) -> None:
                """Ignore the parameters of `_nothing`."""

        app.command(name=name, cls=Late, help=inspect.getdoc(self.function))(_nothing)

    def _make(self) -> Any:
        alone = typer.Typer(add_completion=False)
        alone.command()(with_user_paths(self.with_options))
        return typer.main.get_command(alone)


def _nothing() -> None:
    """Stand in for a command whose options are not made yet."""
