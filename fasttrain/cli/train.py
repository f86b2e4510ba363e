"""`fasttrain train`: its options are made from the groups of settings, so each setting is written once."""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from fasttrain.cli.late import SettingsCommand
from fasttrain.cli.streams import outlive_stdout
from fasttrain.config.model_name import import_path
from fasttrain.model.published import complete_model
from fasttrain.version import __version__

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from fasttrain.config.schema import TrainConfig

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="a TOML file of settings, named as the options are (batch_size = 32)",
        rich_help_panel="The run",
    ),
]


def find_own_model(name: str | None) -> str | None:
    """Let `--model package.module:function` name a module in the working folder, which a script alone doesn't see.

    Names that come from a run's files are not looked for there: they may be a stranger's.
    """
    if name is not None and import_path(name):
        sys.path.insert(0, str(Path.cwd()))
    return name


OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="package.module:function that makes the model, where the run can't say: it was trained from Python",
        show_default=False,
        callback=find_own_model,
    ),
]


DataSet = Annotated[str | None, typer.Argument(help="the same as --data", metavar="[DATA]", show_default=False)]


def take_argument(data_set: str | None, given: dict[str, Any]) -> None:
    """Make the command's argument the setting `data`. Raises UserError where `--data` is given, too."""
    from fasttrain.errors import UserError

    if data_set is None:
        return
    if given.get("data") is not None:
        raise UserError(f"{data_set} and --data {given['data']} are two data sets; give one")
    given["data"] = data_set


def train_command() -> SettingsCommand:
    """`train`, with one option for each field of `TrainConfig`."""

    def train(data_set: DataSet = None, config: ConfigFile = None, **given: Any) -> None:
        """Trains a model on shards (or a folder of photographs), evaluates it and tracks the run."""
        take_argument(data_set, given)
        log_format = given.get("log_format")
        if given.get("resume") is None:
            log_format = check_settings(config, given).log_format
        outlive_stdout()
        say_that_it_starts(log_format)
        from fasttrain.commands.folds import is_folds_folder, train_folds
        from fasttrain.commands.train import train as run

        if wants_folds(config, given) or is_folds_folder(given.get("resume")):
            train_folds(config, **given)
        else:
            run(config, **given)

    return SettingsCommand(train, lambda command: with_settings(command, all_settings()))


def all_settings() -> set[str]:
    """Return the names of all settings."""
    from fasttrain.config.schema import TrainConfig

    return {*TrainConfig.model_fields}


def with_settings(command: Callable[..., None], names: Collection[str]) -> Callable[..., None]:
    """Return `command` for typer: its `**given` becomes an option for each of the settings `names`."""
    from fasttrain.config.groups import GROUPS

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
    for panel, group in GROUPS.items():
        for name, field in group.model_fields.items():
            if name in names:
                annotation: Any = Annotated[_cli_type(field.annotation), _option(name, field, panel)]
                parameters.append(
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
                )
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in keywords}
    return command


def with_trackers_named(arguments: list[str]) -> list[str]:
    """Return `arguments` with the forms of `--track` that older versions had: `--no-track` is `--track none`.

    `--track` without a value is `--track mlflow`.
    """
    named: list[str] = []
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=False):
        named += ["--track", "none"] if argument == "--no-track" else [argument]
        if argument == "--track" and after.startswith("-"):
            named.append("mlflow")
    return named


def wants_folds(config: Path | None, given: Mapping[str, Any]) -> bool:
    """Return whether the command line, or the TOML file, asks for folds."""
    from fasttrain.config.load import read_toml

    return given.get("folds") is not None or (config is not None and "folds" in read_toml(config))


def say_that_it_starts(log_format: str | None) -> None:
    """Print a line for people, since torch takes seconds to import; once for all of torchrun's ranks."""
    from fasttrain.environment import is_rank

    if log_format == "json" or (is_rank() and os.environ["RANK"] != "0"):
        return
    if log_format is None and not sys.stdout.isatty():  # a resumed run, whose folder may say json
        return
    print(f"fasttrain {__version__}: loading PyTorch and timm", flush=True)


def check_settings(config: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """Return the settings, before torch takes its seconds to import. Raise UserError, on torchrun's first rank."""
    from fasttrain.config.load import load_config
    from fasttrain.environment import is_rank
    from fasttrain.errors import UserError

    try:
        return load_config(config, given)
    except UserError:
        if is_rank() and os.environ["RANK"] != "0":
            raise SystemExit(2) from None
        raise


_ALIASES = {"learning_rate": "--lr", "image_size": "--imgsz", "batch_size": "--batch"}
"""Short names of options, as timm's and Ultralytics' users type them."""


def _option(name: str, field: FieldInfo, panel: str) -> Any:
    flag = "--" + name.replace("_", "-")
    flags = [f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag]
    flags += [_ALIASES[name]] if name in _ALIASES else []
    default = "" if field.default is None else _shown(field.default)
    is_model = name == "model"
    return typer.Option(
        *flags,
        help=f"{field.description} \\[default: {default}]" if default else field.description,
        show_default=False,
        rich_help_panel=panel,
        callback=find_own_model if is_model else None,
        autocompletion=complete_model if is_model else None,
        metavar="|".join(_choices(field.annotation)) or None,
    )


def _choices(annotation: Any) -> list[str]:
    """Return the values that a setting of this type can have; none where there are too many to list."""
    if get_origin(annotation) is Literal:
        return [str(each) for each in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        found = [_choices(each) for each in kinds]
        if all(found):
            return [choice for each in found for choice in each]
    return []


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(_shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _cli_type(annotation: Any) -> Any:
    from fasttrain.config.values import ParsedValue

    # None always means "not given"; ranges and choices stay pydantic's, whose errors name the nearest valid value.
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else str
    if get_origin(annotation) is tuple:  # which Python 3.10 takes for a class
        annotation = tuple[float, float]
    elif get_origin(annotation) is Literal or (isinstance(annotation, type) and issubclass(annotation, ParsedValue)):
        annotation = str
    return annotation | None
