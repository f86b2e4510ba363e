"""The geometry of evaluation: which part of a photograph a trained model sees, and in which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fasttrain.config.interpolation import Interpolation

ResizeMode = Literal["crop", "squash", "letterbox"]

CROP_PCT = 224 / 256


@dataclass(frozen=True)
class Geometry:
    """How a photograph becomes the square of `image_size` px on which a model is evaluated.

    `resize_mode`: "crop" uses the centred square of `crop_pct` of the short side. "squash" uses the entire photograph
    and changes its aspect ratio, "letterbox" keeps the ratio and fills the rest with grey. `interpolation`: the
    resizing filter.
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
