"""The command `fasttrain train`. Its options come from the groups of settings, so each setting is defined only once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasttrain.cli.late import SettingsCommand, all_settings
from fasttrain.cli.streams import make_stdout_optional
from fasttrain.version import __version__

if TYPE_CHECKING:
    from fasttrain.config.schema import TrainConfig

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="a TOML file with settings, named like the options (batch_size = 32); options take precedence",
        rich_help_panel="The run",
    ),
]


DataSet = Annotated[
    str | None,
    typer.Argument(help="shards, or a folder of photographs: the same as --data", metavar="[DATA]", show_default=False),
]


def take_argument(data_set: str | None, given: dict[str, Any]) -> None:
    """Store `data_set`, the positional argument, as the setting `data` in `given`. None changes nothing.

    Raises UserError if `--data` was given as well as the positional argument.
    """
    from fasttrain.errors import UserError

    if data_set is None:
        return
    if given.get("data") is not None:
        raise UserError(f"{data_set} and --data {given['data']}: two data sets were given; give only one")
    given["data"] = data_set


def train_command() -> SettingsCommand:
    """Return the command `train`, with one option for each field of `TrainConfig`."""

    def train(data_set: DataSet = None, config: ConfigFile = None, **given: Any) -> None:
        """Trains a model on shards or on a folder of photographs, evaluates it, and tracks the run."""
        take_argument(data_set, given)
        log_format = given.get("log_format")
        if given.get("resume") is None:
            log_format = check_settings(config, given).log_format
        make_stdout_optional()
        print_start(log_format)
        from fasttrain.commands.folds import is_folds_folder, train_folds
        from fasttrain.commands.train import train as run

        if wants_folds(config, given) or is_folds_folder(given.get("resume")):
            train_folds(config, **given)
        else:
            run(config, **given)

    return SettingsCommand(train, all_settings)


def with_current_track_option(arguments: list[str]) -> list[str]:
    """Return `arguments` with the `--track` of older versions rewritten.

    `--no-track` becomes `--track none`. `--track` without a value becomes `--track mlflow`.
    """
    result: list[str] = []
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=False):
        result += ["--track", "none"] if argument == "--no-track" else [argument]
        if argument == "--track" and after.startswith("-"):
            result.append("mlflow")
    return result


def wants_folds(config: Path | None, given: Mapping[str, Any]) -> bool:
    """Return whether the command line or the TOML file sets `folds`."""
    from fasttrain.config.load import read_toml

    return given.get("folds") is not None or (config is not None and "folds" in read_toml(config))


def print_start(log_format: str | None) -> None:
    """Print that the run starts, before torch is imported, which takes seconds. Under torchrun only rank 0 prints.

    `log_format`: "text", "json" (prints nothing), or None if it isn't known yet, because a run is resumed.
    """
    from fasttrain.environment import is_rank

    if log_format == "json" or (is_rank() and os.environ["RANK"] != "0"):
        return
    if log_format is None and not sys.stdout.isatty():  # a resumed run, which may have been started with json
        return
    print(f"fasttrain {__version__}: loading PyTorch and timm", flush=True)


def check_settings(config: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """Return the settings in the TOML file `config`, updated with `given`, before torch is imported (takes seconds).

    Raises UserError if a setting is invalid. Under torchrun only rank 0 raises it; the others exit with code 2.
    """
    from fasttrain.config.load import load_config
    from fasttrain.environment import is_rank
    from fasttrain.errors import UserError

    try:
        return load_config(config, given)
    except UserError:
        if is_rank() and os.environ["RANK"] != "0":
            raise SystemExit(2) from None
        raise
