"""Merge settings, in increasing precedence: defaults, a resumed run, a TOML file, the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fasttrain.config.location import user_path
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.text import nearest, read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings in the TOML file `path`, unchecked. Raises UserError if it can't be read or isn't TOML."""
    try:
        return tomllib.loads(read_text(user_path(path)))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give --config a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}; write settings as name = value") from None


def load_config(config: TrainConfig | str | Path | None, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the settings in `config`, updated with `settings`.

    `config`: a `TrainConfig`, the path of a TOML file, or None for the defaults. Raises UserError if the file can't be
    read, or if a setting is unknown or invalid.
    """
    if isinstance(config, TrainConfig):
        return resolve(config.model_dump(exclude_unset=True), settings)
    return resolve(read_toml(Path(config)) if config else {}, settings, origin=str(config or "settings"))


def resolve(*layers: Mapping[str, Any], origin: str = "settings") -> TrainConfig:
    """Merge dictionaries of settings and validate the result.

    Later layers take precedence, and a value of None means "not given". Raises UserError if a setting is unknown or
    invalid. Its message begins with `origin`, and has the setting, its value and the nearest valid one.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update({name: value for name, value in layer.items() if value is not None})
    for name, value in merged.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise UserError(f"{origin}: {name} = {str(value)!r} is not UTF-8; rename that file or folder") from None
    try:
        return TrainConfig(**merged)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return the first problem in `error` as one line, with the nearest valid setting or value if there is one."""
    detail = error.errors()[0]
    kind, context = detail["type"], detail.get("ctx", {})
    if not detail["loc"]:
        return str(context.get("error", detail["msg"]))
    if kind == "value_error":
        return str(context["error"])
    name = str(detail["loc"][0])
    if kind == "extra_forbidden":
        return f"unknown setting '{name}'" + nearest(name, list(TrainConfig.model_fields))
    given = f"{name} = {detail['input']!r}"
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in context["expected"].replace(" or ", ",").split(",")]
        return f"{given} is not one of {', '.join(choices)}" + nearest(str(detail["input"]), choices)
    for bound, limit in (("ge", "minimum"), ("le", "maximum")):
        if bound in context:
            return f"{given} is out of range: the nearest valid value is {context[bound]}, the {limit}"
    for bound, relation in (("gt", "above"), ("lt", "below")):
        if bound in context:
            return f"{given} is out of range: it must be {relation} {context[bound]}"
    return f"{given}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
