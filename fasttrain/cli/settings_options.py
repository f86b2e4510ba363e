"""One command-line option for each setting, made from the groups of settings."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from fasttrain.cli.own_model import find_own_model
from fasttrain.config.groups import GROUPS
from fasttrain.config.values import ParsedValue
from fasttrain.model.published import complete_model


def with_settings(command: Callable[..., None], names: Collection[str]) -> Callable[..., None]:
    """Change the signature of `command` for typer, and return `command`.

    An option for each setting in `names` replaces `**given`. An option that the user doesn't give is None.
    """
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


_ALIASES = {"learning_rate": "--lr", "image_size": "--imgsz", "batch_size": "--batch"}
"""Short names of some options, which users of timm and Ultralytics know."""


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
    """Return the values that a setting of this type can have, or an empty list if it isn't a choice of a few."""
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
    # None always means "not given". pydantic checks ranges and choices, as its errors name the nearest valid value.
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else str
    if get_origin(annotation) is tuple:  # Python 3.10 would treat it as a class below
        annotation = tuple[float, float]
    elif get_origin(annotation) is Literal or (isinstance(annotation, type) and issubclass(annotation, ParsedValue)):
        annotation = str
    return annotation | None
