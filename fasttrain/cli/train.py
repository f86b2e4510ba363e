"""The command `fasttrain train`. Its options come from the groups of settings, so each setting is defined only once."""

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
from fasttrain.cli.streams import make_stdout_optional
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
        help="a TOML file with settings, named like the options (batch_size = 32); options take precedence",
        rich_help_panel="The run",
    ),
]


def find_own_model(name: str | None) -> str | None:
    """Add the working folder to Python's path if `name` is "package.module:function". Return `name`.

    Only names from the command line are searched there. Those in a run's files may come from somebody else.
    """
    if name is not None and import_path(name):
        sys.path.insert(0, str(Path.cwd()))
    return name


OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="package.module:function that creates the model, needed if the run was trained from Python with an object",
        show_default=False,
        callback=find_own_model,
    ),
]


DataSet = Annotated[str | None, typer.Argument(help="the same as --data", metavar="[DATA]", show_default=False)]


def take_argument(data_set: str | None, given: dict[str, Any]) -> None:
    """Store the positional argument as the setting `data` in `given`. Raises UserError if `--data` is given, too."""
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


def all_settings() -> set[str]:
    """Return the names of all settings."""
    from fasttrain.config.schema import TrainConfig

    return {*TrainConfig.model_fields}


def with_settings(command: Callable[..., None], names: Collection[str]) -> Callable[..., None]:
    """Return `command` with a signature for typer: an option for each setting in `names` replaces `**given`."""
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


def with_current_track_option(arguments: list[str]) -> list[str]:
    """Return `arguments` with `--track` in its present form, for the two forms of older versions.

    `--no-track` becomes `--track none`, and `--track` without a value becomes `--track mlflow`.
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
    """Print a line before torch is imported, which takes seconds. Under torchrun, only the first rank prints it."""
    from fasttrain.environment import is_rank

    if log_format == "json" or (is_rank() and os.environ["RANK"] != "0"):
        return
    if log_format is None and not sys.stdout.isatty():  # a resumed run, which may have been started with json
        return
    print(f"fasttrain {__version__}: loading PyTorch and timm", flush=True)


def check_settings(config: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """Validate the settings before torch is imported, which takes seconds. Return them.

    Raises UserError if they are invalid. Under torchrun only the first rank raises it; the others exit with code 2.
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


_ALIASES = {"learning_rate": "--lr", "image_size": "--imgsz", "batch_size": "--batch"}
"""Short names of options, which users of timm and Ultralytics are used to."""


def _option(name: str, field: FieldInfo, panel: str) -> Any:
    flag = "--" + name.replace("_", "-")
    flags = [f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag]
    flags += [_ALIASES[name]] if name in _ALIASES else []
    default = "" if field.default is None else _as_text(field.default)
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
    """Return the values that a setting of this type can have, or an empty list if they can't be listed."""
    if get_origin(annotation) is Literal:
        return [str(each) for each in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        found = [_choices(each) for each in kinds]
        if all(found):
            return [choice for each in found for choice in each]
    return []


def _as_text(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(_as_text, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _cli_type(annotation: Any) -> Any:
    from fasttrain.config.values import ParsedValue

    # None always means "not given". pydantic checks ranges and choices, as its errors name the nearest valid value.
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else str
    if get_origin(annotation) is tuple:  # Python 3.10 would treat it as a class below
        annotation = tuple[float, float]
    elif get_origin(annotation) is Literal or (isinstance(annotation, type) and issubclass(annotation, ParsedValue)):
        annotation = str
    return annotation | None
