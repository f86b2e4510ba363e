"""`fasttrain train`: its options are made from `TrainConfig`, so each setting is written once."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from fasttrain.config.schema import TrainConfig

_PANELS = {
    "data": "Data",
    "color_jitter": "Augmentation",
    "model": "Model",
    "recipe": "Optimisation",
    "device": "Machine",
    "out": "The run",
}


def train_command() -> Callable[..., None]:
    """A function whose signature has one option for each field of `TrainConfig`, for typer."""

    def train(config: Path | None = None, **given: Any) -> None:
        """Trains a model on shards (or a folder of photographs), evaluates it and tracks the run."""
        from fasttrain.config.load import read_toml, resolve
        from fasttrain.errors import UserError

        if given.get("resume") is None:  # a mistyped setting is told before torch takes its seconds to import
            try:
                resolve(read_toml(config) if config else {}, given, origin=str(config or "settings"))
            except UserError:
                if os.environ.get("RANK", "0") != "0":  # torchrun's first rank says it
                    raise SystemExit(2) from None
                raise
        from fasttrain.training.train import train as run

        run(config, **given)

    config_help = "a TOML file of settings, named as the options are (batch_size = 32)"
    option = Annotated[Path | None, typer.Option("--config", help=config_help, rich_help_panel="The run")]
    parameters = [inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)]
    panel = ""
    for name, field in TrainConfig.model_fields.items():
        panel = _PANELS.get(name, panel)
        annotation: Any = Annotated[_cli_type(field.annotation), _option(name, field, panel)]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__annotations__ = {each.name: each.annotation for each in parameters}
    return train


def _option(name: str, field: FieldInfo, panel: str) -> Any:
    flag = "--" + name.replace("_", "-")
    flags = f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag
    default = "" if field.default is None else _shown(field.default)
    return typer.Option(flags, help=field.description, show_default=default or False, rich_help_panel=panel)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return " ".join(str(each) for each in default) if isinstance(default, tuple) else str(default)


def _cli_type(annotation: Any) -> Any:
    # None always means "not given"; ranges and choices stay pydantic's, whose errors name the nearest valid value.
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is Literal:
        annotation = str
    elif get_origin(annotation) is tuple:
        annotation = tuple[float, float]
    return annotation | None
