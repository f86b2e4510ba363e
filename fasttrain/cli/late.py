"""Commands with the options of `train`, which are created when a command runs, because importing pydantic is slow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from fasttrain.cli.paths import with_user_paths


def all_settings() -> set[str]:
    """Return the names of all settings."""
    from fasttrain.config.groups import names_of
    from fasttrain.config.schema import TrainConfig

    return names_of(TrainConfig)


@dataclass(frozen=True)
class SettingsCommand:
    """A command whose `**given` becomes an option for each of the settings that `names` returns."""

    function: Callable[..., None]
    names: Callable[[], Collection[str]]

    @functools.cached_property
    def with_options(self) -> Callable[..., None]:
        """Return the command's function, with an argument for each option in its signature, which typer reads.

        It is cached because `with_settings` changes the function's signature.
        """
        from fasttrain.cli.settings_options import with_settings

        return with_settings(self.function, self.names())

    @functools.cached_property
    def _command(self) -> Any:
        app = typer.Typer(add_completion=False)
        app.command()(with_user_paths(self.with_options))
        return typer.main.get_command(app)

    def add_to(self, app: typer.Typer, name: str) -> None:
        """Add the command to `app`, which can list it with its help before the options exist."""
        settings_command = self

        class Late(TyperCommand):
            @property
            def params(self) -> Any:
                command = settings_command._command
                self.callback = command.callback
                return command.params

            @params.setter
            def params(self, _: Any) -> None:
                """Ignore the value: click assigns the parameters of `_placeholder`, not of the command."""

        app.command(name=name, cls=Late, help=inspect.getdoc(self.function))(_placeholder)


def _placeholder() -> None:
    """Stand in for a command until its options exist."""
