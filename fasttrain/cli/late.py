"""Commands with the options of `train`.

The options are created when a command runs or shows its help, because importing pydantic is slow.
"""

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
    """Return the names of all fields of `TrainConfig`."""
    from fasttrain.config.groups import names_of
    from fasttrain.config.schema import TrainConfig

    return names_of(TrainConfig)


@dataclass(frozen=True)
class SettingsCommand:
    """A command of the command line with an option for each setting in the result of `names`.

    `function`: runs the command. It receives the settings that the user gave as `**given`, and has its own options as
    named arguments.
    """

    function: Callable[..., None]
    names: Callable[[], Collection[str]]

    @functools.cached_property
    def with_options(self) -> Callable[..., None]:
        """Return `function` with a new signature for typer: an argument for each option.

        The result is cached because `with_settings` changes the function itself.
        """
        from fasttrain.cli.settings_options import with_settings

        return with_settings(self.function, self.names())

    @functools.cached_property
    def _command(self) -> Any:
        app = typer.Typer(add_completion=False)
        app.command()(with_user_paths(self.with_options))
        return typer.main.get_command(app)

    def add_to(self, app: typer.Typer, name: str) -> None:
        """Add the command to `app` as `name`. `app` can list the command with its help before the options exist."""
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
