"""The geometry of evaluation: which part of a photograph a trained model sees, and at which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fasttrain.config.interpolation import Interpolation

ResizeMode = Literal["crop", "squash", "letterbox"]

CROP_PCT = 224 / 256


@dataclass(frozen=True)
class Geometry:
    """Describes how evaluation turns a photograph into a square of `image_size` px, the model's input.

    `resize_mode`: "crop" uses the centre square, whose side is the share `crop_pct` (0 to 1) of the photograph's short
    side. "squash" uses the entire photograph and changes its aspect ratio. "letterbox" uses the entire photograph,
    keeps its aspect ratio and fills the rest of the square with grey. `interpolation`: the resizing filter.
    """

    image_size: int
    crop_pct: float = CROP_PCT
    resize_mode: ResizeMode = "crop"
    interpolation: Interpolation = "bilinear"

    def __str__(self) -> str:
        how = {
            "crop": "" if self.crop_pct == CROP_PCT else f", the centre {self.crop_pct:.4g} of the short side",
            "squash": ", squashed",
            "letterbox": ", letterboxed",
        }
        resized = "" if self.interpolation == "bilinear" else f", {self.interpolation}"
        return f"{self.image_size} px{how[self.resize_mode]}{resized}"
