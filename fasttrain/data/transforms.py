"""Transforms of a batch on its device. Their random numbers come from the plan, so all loaders give the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.augment.augmentation import make_augmentation
from fasttrain.config.groups import AugmentationSettings
from fasttrain.config.values import RandAugment
from fasttrain.device import copy_to
from fasttrain.errors import UserError
from fasttrain.model.preprocess import NormalizePixels


@dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugmentWide (Müller & Hutter 2021, arXiv:2103.10158): one operation per image, at a random magnitude.

    It can't be combined with `RandAugment`.
    """


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation randomly by at most `strength`, 0 to 1, as torchvision does."""

    strength: float = 0.4

    def __post_init__(self) -> None:
        _require("ColorJitter(strength", self.strength, 1)


@dataclass(frozen=True)
class RandomErasing:
    """Fill a random rectangle of an image, with probability `p` (Zhong et al. 2017, arXiv:1708.04896)."""

    p: float = 0.25

    def __post_init__(self) -> None:
        _require("RandomErasing(p", self.p, 1)


@dataclass(frozen=True)
class Mixup:
    """Blend pairs of a batch with a share drawn from Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412)."""

    alpha: float = 0.2

    def __post_init__(self) -> None:
        _require("Mixup(alpha", self.alpha, 100)


@dataclass(frozen=True)
class CutMix:
    """Paste a rectangle of one image of a batch into another (Yun et al. 2019, arXiv:1905.04899).

    The rectangle's share of the area is drawn from Beta(alpha, alpha).
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _require("CutMix(alpha", self.alpha, 100)


@dataclass(frozen=True)
class Normalize:
    """Turn uint8 [n, H, W, 3] into float32 [n, 3, H, W] in channels-last memory: (pixel / 255 - mean) / std."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"{self}: give three numbers for mean, and three numbers above 0 for std")


Function = Callable[[torch.Tensor], torch.Tensor]
Transform = RandAugment | TrivialAugment | ColorJitter | RandomErasing | Mixup | CutMix | Normalize | Function

BEFORE_NORMALIZE = (RandAugment, TrivialAugment, ColorJitter, RandomErasing)
_ORDER: tuple[Any, ...] = (*BEFORE_NORMALIZE, Normalize, (Mixup, CutMix))


class Transforms:
    """The transforms of one loader, applied to its batches in the order that fasttrain prescribes."""

    def __init__(
        self,
        transforms: Sequence[Transform],
        ids: NDArray[np.int64],
        *,
        seed: int,
        classes: int,
        views: int,
        device: torch.device,
    ) -> None:
        """Check the transforms. `ids`, int64 [n], are the split's samples; random numbers depend on them and on
        `seed`.

        Raises UserError for values out of range, and for transforms in the wrong order.
        """
        places = [_place(each) for each in transforms]
        if places != sorted(places):
            order = "ColorJitter, RandomErasing, Normalize, Mixup or CutMix, your own functions"
            raise UserError(
                f"transforms are applied in this order: RandAugment or TrivialAugment, {order}; give them in this order"
            )
        normalize: Normalize | None = None
        settings: dict[str, Any] = {}
        self._functions: list[Function] = []
        for each in transforms:
            match each:
                case Normalize():
                    normalize = each
                case RandAugment():
                    settings["rand_augment"] = each
                case TrivialAugment():
                    settings["trivial_augment"] = True
                case ColorJitter(strength):
                    settings["color_jitter"] = strength
                case RandomErasing(p):
                    settings["random_erasing"] = p
                case Mixup(alpha):
                    settings["mixup"] = alpha
                case CutMix(alpha):
                    settings["cutmix"] = alpha
                case _:
                    self._functions.append(each)
        if {"rand_augment", "trivial_augment"} <= settings.keys():
            raise UserError("transforms: RandAugment and TrivialAugment exclude each other; leave one of them out")
        self.mixes = "mixup" in settings or "cutmix" in settings
        if self.mixes and normalize is None:
            raise UserError("Mixup and CutMix need normalized images: add Normalize() before them")
        if self.mixes and views > 1:
            raise UserError("Mixup and CutMix need a single view of each photograph: leave out views")
        chosen = AugmentationSettings(**settings)
        mean = (normalize or Normalize()).mean
        self._normalize = None
        if normalize is not None:
            self._normalize = NormalizePixels(normalize.mean, normalize.std, channels_last=True).to(device)
        self._device = device
        self._views = [
            make_augmentation(chosen, ids, seed=_seed(seed, view), classes=classes, mean=mean, device=device)
            for view in range(views)
        ]

    def __call__(
        self, views: list[torch.Tensor], labels: torch.Tensor, ids: NDArray[np.int64], epoch: int
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Transform a batch. Return the images of each view and the targets.

        `views`: a tensor for each view, uint8 [n, H, W, 3], on the device. `labels`: int64 [n], or float32 [n, classes]
        for label sets. `ids`: int64 [n], row numbers of the index. Mixed targets are float32 [n, classes] on the
        device.
        """
        pictures = []
        if self.mixes:
            labels = copy_to(self._device, labels)
        for images, augmentation in zip(views, self._views, strict=True):
            images, labels = augmentation(images, labels, ids, epoch, self._normalized)
            for function in self._functions:
                images = function(images)
            pictures.append(images)
        return pictures, labels

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        return images if self._normalize is None else self._normalize(images)


def _place(transform: Transform) -> int:
    """Return the place of `transform` in the fixed order. Raises UserError if it isn't a transform or a function."""
    for place, kind in enumerate(_ORDER):
        if isinstance(transform, kind):
            return place
    if not callable(transform) or isinstance(transform, type):
        raise UserError(f"transforms: {transform!r} is neither a transform of fasttrain nor a function of a batch")
    return len(_ORDER)


def _require(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise UserError(f"{name}={value}): give a number above 0 and up to {most}")


def _seed(seed: int, view: int) -> int:
    # Each view of a photograph must be augmented differently.
    return (seed + (view << 48)) % (1 << 64)
