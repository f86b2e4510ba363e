"""The command `fasttrain profile`, with the options of `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand, all_settings
from fasttrain.cli.train import ConfigFile, check_settings


def profile_command() -> SettingsCommand:
    """Return the command `profile`, with the options of `train`."""

    def profile(
        config: ConfigFile = None,
        steps: Annotated[int, typer.Option(min=1, help="number of steps to measure, after a few warm-up steps")] = 30,
        picture: Annotated[Path, typer.Option(help="the PNG file for the chart")] = Path("profile.png"),
        as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
        **given: Any,
    ) -> None:
        """Measures how a training step spends its time, and names the settings to change. Creates no run."""
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

    return SettingsCommand(profile, lambda: all_settings() - {"profile", "folds"})
