"""The command `fasttrain lr-find`, with options of `train` and options for the sweep over learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand, all_settings
from fasttrain.cli.train import ConfigFile, check_settings

_NOT_OF_A_STEP = {
    *("eval_size", "crop_pct", "resize_mode"),
    *("progressive", "compile", "compile_mode", "ema_decay", "average", "refit", "tta"),
    *("learning_rate", "epochs", "minutes", "head_epochs", "scheduler", "warmup_epochs"),
    *("patience", "factor", "monitor", "early_stopping"),
}


def _settings() -> set[str]:
    """Return the names of the settings that affect a training step."""
    from fasttrain.config.groups import RunSettings, names_of

    return (all_settings() - names_of(RunSettings) | {"log_format"}) - _NOT_OF_A_STEP


def lr_find_command() -> SettingsCommand:
    """Return the command `lr-find`, with the options of `train` that affect a training step."""

    def lr_find(
        config: ConfigFile = None,
        start: Annotated[float, typer.Option(help="the learning rate of the first step")] = 1e-7,
        end: Annotated[
            float, typer.Option(help="the learning rate of the last step; the sweep ends earlier if the loss diverges")
        ] = 10.0,
        steps: Annotated[int, typer.Option(help="number of training steps, each with a greater rate")] = 100,
        smoothing: Annotated[float, typer.Option(help="width of the Gaussian that smooths the loss, in steps")] = 4.0,
        picture: Annotated[Path, typer.Option(help="the PNG file for the curve")] = Path("lr_find.png"),
        as_json: Annotated[bool, typer.Option("--json", help="print all figures as JSON")] = False,
        **given: Any,
    ) -> None:
        """Suggests a learning rate: trains for a few steps with growing rates and draws the loss. Creates no run."""
        check_settings(config, given)
        import json

        from fasttrain.commands.lr_find import lr_find as run
        from fasttrain.terminal import make_console

        console = make_console(quiet=as_json)
        result = run(
            config,
            start=start,
            end=end,
            steps=steps,
            smoothing=smoothing,
            picture=picture,
            console=console,
            **given,
        )
        if as_json:
            print(json.dumps(result.to_dict(), indent=2))
            return
        tried = f"{len(result.losses)} steps on the train split's {result.photographs:,} photographs, "
        tried += f"{result.learning_rates[0]:.1e} to {result.learning_rates[-1]:.1e}"
        console.print(tried + (", where the loss diverged" if result.diverged else ""))
        if result.suggestion is None:
            console.print("no suggestion: the loss did not fall; try more --steps, or choose a rate from the picture")
        else:
            console.print("suggestion: ", end="")
            console.print(f"--learning-rate {result.suggestion:.2e}", style="bold")
        console.print(f"picture: {picture}", soft_wrap=True)

    return SettingsCommand(lr_find, _settings)
