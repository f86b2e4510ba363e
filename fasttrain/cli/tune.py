"""`fasttrain tune`: `train`'s options, and those of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand
from fasttrain.cli.train import ConfigFile, all_settings, check_settings, with_settings
from fasttrain.extras import require


def tune_command() -> SettingsCommand:
    """`tune`, with the options of `train`."""

    def tune(
        config: ConfigFile = None,
        trials: Annotated[int, typer.Option(min=1, help="trials in the whole study")] = 20,
        timeout: Annotated[float | None, typer.Option(min=0, help="seconds after which no trial begins")] = None,
        pruner: Annotated[str, typer.Option(help="what ends bad trials early: median, hyperband or none")] = "median",
        out: Annotated[Path, typer.Option(help="the study's folder; the same command goes on in it")] = Path("tune"),
        learning_rate_range: Annotated[
            tuple[float, float] | None,
            typer.Option(help="least and greatest; default: 1e-4 0.1, for sgd 1e-3 1", metavar="LEAST GREATEST"),
        ] = None,
        weight_decay_range: Annotated[
            tuple[float, float] | None,
            typer.Option(help="least and greatest; default: 1e-6 0.1", metavar="LEAST GREATEST"),
        ] = None,
        batch_sizes: Annotated[str, typer.Option(help="to choose from")] = "32,64,128",
        as_json: Annotated[bool, typer.Option("--json", help="print all trials as JSON")] = False,
        **given: Any,
    ) -> None:
        """Searches for the best learning rate, weight decay and batch size, a training run each trial.

        --learning-rate, --weight-decay and --batch-size are what the first trial has.
        """
        check_settings(config, given)
        require("tune", "tune", "optuna")  # told before torch takes its seconds to import
        import json

        from fasttrain.cli.streams import outlive_stdout
        from fasttrain.commands.tune import tune as run
        from fasttrain.terminal import make_console
        from fasttrain.tuning.table import trials_table

        if not as_json:
            outlive_stdout()
        console = make_console(quiet=as_json)
        result = run(
            config,
            trials=trials,
            timeout=timeout,
            pruner=pruner,
            out=out,
            learning_rate_range=learning_rate_range,
            weight_decay_range=weight_decay_range,
            batch_sizes=_numbers(batch_sizes),
            console=console,
            **given,
        )
        if as_json:
            print(json.dumps(result.to_dict(), indent=2))
            return
        console.print(trials_table(result))
        console.print(f"val/top1 is of the val split's {result.photographs:,} photographs")
        if result.plots:
            names = ", ".join(path.name for path in result.plots)
            console.print(f"plots: {names} in {out}", soft_wrap=True)
        if result.command:
            console.print("the best settings:")
            console.print(result.command, style="bold", soft_wrap=True)

    left_out = {"out", "resume", "run_name", "folds"}
    return SettingsCommand(tune, lambda command: with_settings(command, all_settings() - left_out))


def _numbers(text: str) -> tuple[int, ...]:
    from fasttrain.errors import UserError

    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise UserError(f"--batch-sizes {text} is not understood; write 32,64,128") from None
