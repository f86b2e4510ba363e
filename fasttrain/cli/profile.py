"""`fasttrain profile`: `train`'s options, and a few of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand
from fasttrain.cli.train import ConfigFile, all_settings, check_settings, with_settings


def profile_command() -> SettingsCommand:
    """`profile`, with the options of `train`."""

    def profile(
        config: ConfigFile = None,
        steps: Annotated[int, typer.Option(min=1, help="steps to measure, after a few that warm up")] = 30,
        picture: Annotated[Path, typer.Option(help="where the picture is written")] = Path("profile.png"),
        as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
        **given: Any,
    ) -> None:
        """Measures where a training step's time goes, and names the setting to change. Trains nothing."""
        check_settings(config, given)
        import json

        from fasttrain.commands.profile import profile as run
        from fasttrain.profiling.table import profile_table
        from fasttrain.terminal import make_console

        console = make_console(quiet=as_json)
        result = run(config, steps=steps, picture=picture, console=console, **given)
        if as_json:
            print(json.dumps(result.to_dict(), indent=2))
        else:
            console.print(profile_table(result))
            console.print(f"picture: {picture}", soft_wrap=True)

    return SettingsCommand(profile, lambda command: with_settings(command, all_settings() - {"profile", "folds"}))
