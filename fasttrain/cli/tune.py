"""The command `fasttrain tune`, with the options of `train` and options for the search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand, all_settings
from fasttrain.cli.train import ConfigFile, check_settings
from fasttrain.extras import require


def tune_command() -> SettingsCommand:
    """Return the command `tune`, with the options of `train`."""

    def tune(
        config: ConfigFile = None,
        trials: Annotated[
            int, typer.Option(min=1, help="total number of trials (training runs), including earlier ones in --out")
        ] = 20,
        timeout: Annotated[float | None, typer.Option(min=0, help="start no trial after this many seconds")] = None,
        pruner: Annotated[
            str, typer.Option(help="method that ends bad trials early: median, hyperband or none")
        ] = "median",
        out: Annotated[
            Path, typer.Option(help="folder of the search; the same command with the same folder continues it")
        ] = Path("tune"),
        learning_rate_range: Annotated[
            tuple[float, float] | None,
            typer.Option(
                help="range of the learning rate; default: 1e-4 0.1, for sgd 1e-3 1", metavar="MINIMUM MAXIMUM"
            ),
        ] = None,
        weight_decay_range: Annotated[
            tuple[float, float] | None,
            typer.Option(help="range of the weight decay; default: 1e-6 0.1", metavar="MINIMUM MAXIMUM"),
        ] = None,
        batch_sizes: Annotated[str, typer.Option(help="the batch sizes to choose from")] = "32,64,128",
        as_json: Annotated[bool, typer.Option("--json", help="print all trials as JSON")] = False,
        **given: Any,
    ) -> None:
        """Searches for the best learning rate, weight decay and batch size. Each trial is a training run.

        The first trial uses the given --learning-rate, --weight-decay and --batch-size.
        """
        check_settings(config, given)
        require("tune", "tune", "optuna")  # before torch is imported, which takes seconds
        import json

        from fasttrain.cli.streams import make_stdout_optional
        from fasttrain.commands.tune import tune as run
        from fasttrain.terminal import make_console
        from fasttrain.tuning.table import trials_table

        if not as_json:
            make_stdout_optional()
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
        console.print(f"val/top1 is the top-1 accuracy on the {result.photographs:,} photographs of the val split")
        if result.plots:
            names = ", ".join(path.name for path in result.plots)
            console.print(f"plots: {names} in {out}", soft_wrap=True)
        if result.command:
            console.print("train with the best settings:")
            console.print(result.command, style="bold", soft_wrap=True)

    return SettingsCommand(tune, lambda: all_settings() - {"out", "resume", "run_name", "folds"})


def _numbers(text: str) -> tuple[int, ...]:
    from fasttrain.errors import UserError

    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise UserError(f"--batch-sizes {text} is invalid; write integers, such as 32,64,128") from None
