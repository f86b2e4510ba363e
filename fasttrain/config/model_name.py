"""Names of models in the settings: timm's name, the import path of the user's function, or "NAME()".

"NAME()" stands for an object that was passed from Python and can't be created from its name.
"""

from __future__ import annotations

import functools
import re
import sys
from typing import Any

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_OBJECT = "()"  # the end of an object's name; no timm name and no import path ends like this


def import_path(name: str) -> tuple[str, str] | None:
    """Return ("package.module", "function") for the import path "package.module:function". Otherwise return None."""
    found = _IMPORT_PATH.fullmatch(name)
    return (found[1], found[2]) if found else None


def is_object(name: str) -> bool:
    """Return whether `name` is "NAME()", a model that was passed as an object and can't be created from its name."""
    return name.endswith(_OBJECT)


def is_own(name: str) -> bool:
    """Return whether `name` is a model of the user's own: an import path, or "NAME()" for a passed object."""
    return is_object(name) or import_path(name) is not None


def model_name(model: Any) -> str:
    """Return the name of `model` for the settings.

    A string is returned unchanged. A function or class gets its import path, "package.module:function". An nn.Module,
    or a function that can't be imported (a lambda, or a function of the running script), gets "NAME()".
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
    """Return the attribute of `module` with the dotted `name`, such as "Models.small", or None if it is missing."""
    return functools.reduce(lambda each, part: getattr(each, part, None), name.split("."), module)
