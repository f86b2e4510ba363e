"""Names of models: timm's, the import path of a function of one's own, or that of an object passed from Python."""

from __future__ import annotations

import functools
import re
import sys
from typing import Any

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_OBJECT = "()"  # no timm name and no import path ends so


def import_path(name: str) -> tuple[str, str] | None:
    """Return the module and the attribute of "package.module:function"; None where `name` is no import path."""
    found = _IMPORT_PATH.fullmatch(name)
    return (found[1], found[2]) if found else None


def is_object(name: str) -> bool:
    """Return whether `name` is that of a model passed as an object, which can't be made from its name."""
    return name.endswith(_OBJECT)


def is_own(name: str) -> bool:
    """Return whether `name` is not one of timm's."""
    return is_object(name) or import_path(name) is not None


def model_name(model: Any) -> str:
    """Return the name of `model` in the settings: a text as it is, and the import path of a function or class.

    A module, or a function that can't be imported (a lambda, or one of the script that runs), is called "NAME()".
    """
    if isinstance(model, str):
        return model
    module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", None)
    path = f"{module}:{name}"
    if module != "__main__" and import_path(path) and attribute(sys.modules.get(str(module)), str(name)) is model:
        return path
    own = getattr(model, "__name__", None) or type(model).__name__
    return own.strip("<>") + _OBJECT


def attribute(module: Any, name: str) -> Any:
    """Return the attribute `name` ("Models.small") of `module`; None where there is none."""
    return functools.reduce(lambda each, part: getattr(each, part, None), name.split("."), module)
