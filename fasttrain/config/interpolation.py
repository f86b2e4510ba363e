"""The interpolation filters for resizing photographs."""

from __future__ import annotations

from typing import Any, Literal, get_args

from fasttrain.errors import UserError

Interpolation = Literal["bilinear", "bicubic"]
"""The name of an antialiased filter, as in Pillow and torchvision."""


def check_interpolation(name: Any) -> Interpolation:
    """Return `name`. Raises UserError if it is not the name of a filter."""
    if name not in (known := get_args(Interpolation)):
        raise UserError(f"interpolation = {name!r} is not one of {', '.join(known)}")
    checked: Interpolation = name
    return checked
