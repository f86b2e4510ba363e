"""Crops: which part of a photograph is used, and the size that it is resized to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from fasttrain.config.geometry import Geometry
from fasttrain.config.interpolation import Interpolation, check_interpolation
from fasttrain.errors import UserError
from fasttrain.loaders.plan import CenterShare, CropRule, FullPicture, View
from fasttrain.loaders.plan import Crop as RandomCrop


@dataclass(frozen=True)
class PlannedCrop(ABC):
    """Base of the crops. `size` is the side of the square image in pixels.

    `interpolation`: the resizing filter, "bilinear" or "bicubic", both antialiased.
    """

    size: int
    interpolation: Interpolation = field(default="bilinear", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise UserError(f"a crop of {self.size} px: give an integer number of pixels, such as 224")
        check_interpolation(self.interpolation)

    @abstractmethod
    def rule(self, hflip: float, vflip: float) -> CropRule:
        """Return the `CropRule` from which `loaders.plan` draws the boxes and flips of this crop.

        `hflip`: the probability of a horizontal flip. `vflip`: the probability of a vertical flip.
        """

    def view(self, hflip: float, vflip: float) -> View:
        """Return `size` and the result of `rule(hflip, vflip)` as a `View`."""
        return View(self.size, self.rule(hflip, vflip))


@dataclass(frozen=True)
class RandomResizedCrop(PlannedCrop):
    """A random part of the photograph, resized to `size` x `size` px, as torchvision's transform of that name.

    `scale`: the range of the crop's share of the area. `ratio`: the range of its width divided by its height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, float("inf"))):
            if not 0 < low <= high <= most:
                raise UserError(f"RandomResizedCrop({name}={(low, high)}): give two numbers above 0, the smaller first")

    def rule(self, hflip: float, vflip: float) -> CropRule:
        return RandomCrop(self.scale, self.ratio, flip=hflip, vflip=vflip, interpolation=self.interpolation)


@dataclass(frozen=True)
class CenterCrop(PlannedCrop):
    """A centred square of `crop_pct` of the short side, resized to `size` x `size` px, as timm's `crop_pct`."""

    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"CenterCrop(crop_pct={self.crop_pct}): give a share above 0 and up to 1, such as 0.875")

    def rule(self, hflip: float, vflip: float) -> CropRule:
        return CenterShare(self.crop_pct, flip=hflip, vflip=vflip, interpolation=self.interpolation)


@dataclass(frozen=True)
class Resize(PlannedCrop):
    """The entire photograph as `size` x `size` px, so that nothing at the edges is lost.

    `mode`: "squash" changes the aspect ratio; "letterbox" keeps it and fills the rest with grey (114, as Ultralytics).
    """

    mode: Literal["squash", "letterbox"] = "squash"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("squash", "letterbox"):
            raise UserError(f"Resize(mode={self.mode!r}): give 'squash' or 'letterbox'")

    def rule(self, hflip: float, vflip: float) -> CropRule:
        letterbox = self.mode == "letterbox"
        return FullPicture(flip=hflip, vflip=vflip, letterbox=letterbox, interpolation=self.interpolation)


def as_crop(given: PlannedCrop | int | None, *, training: bool) -> PlannedCrop:
    """Return `given` if it is a crop. If it is a number of pixels or None (224 px), return a default crop of that size.

    The default is `RandomResizedCrop` in training and `CenterCrop` otherwise. Raises UserError for any other `given`.
    """
    if isinstance(given, PlannedCrop):
        return given
    if isinstance(given, bool) or (given is not None and not isinstance(given, int)):
        raise UserError(f"crop = {given!r}: give RandomResizedCrop(224), CenterCrop(224), or a size such as 224")
    size = 224 if given is None else given
    return RandomResizedCrop(size) if training else CenterCrop(size)


def evaluation_crop(geometry: Geometry) -> PlannedCrop:
    """Return the crop for evaluation: `CenterCrop` if the resize mode of `geometry` is "crop", otherwise `Resize`."""
    if geometry.resize_mode == "crop":
        return CenterCrop(geometry.image_size, geometry.crop_pct, interpolation=geometry.interpolation)
    return Resize(geometry.image_size, geometry.resize_mode, interpolation=geometry.interpolation)
