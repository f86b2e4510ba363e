"""The filters that photographs are resized with."""

from __future__ import annotations

from typing import Any, Literal, get_args

from fasttrain.errors import UserError

Interpolation = Literal["bilinear", "bicubic"]
"""An antialiased filter, as Pillow and torchvision have it."""


def check_interpolation(name: Any) -> Interpolation:
    """Return `name`. Raise UserError where it is no filter."""
    if name not in (known := get_args(Interpolation)):
        raise UserError(f"interpolation = {name!r} is not one of {', '.join(known)}")
    checked: Interpolation = name
    return checked
