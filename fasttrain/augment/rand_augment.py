"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) on a batch, with different operations for each sample."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.augment import pixels
from fasttrain.augment.color import color_jitter
from fasttrain.augment.numbers import to_device

if TYPE_CHECKING:
    import torch

KINDS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "contrast", "color"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""The operations, drawn uniformly: the set of the paper and of torchvision's RandAugment."""

# The group of each kind, in the order of KINDS. One call applies the kinds of a group together.
_GROUPS = (
    *("identity", "affine", "affine", "affine", "affine", "affine", "color", "color", "color"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


@cache
def parameters(magnitude: int, height: int, width: int) -> NDArray[np.float32]:
    """Return the parameters of each operation at `magnitude`, 0..10, float32 [14, 2, 6], see `parameter_table`.

    The ranges are torchvision's, at magnitude 10: shear 0.3, translation 150/331 of the side, 30 degrees, factors 1 ±
    0.9, posterize to 4 bits, solarize from 0.
    """
    share = magnitude / 10
    return parameter_table(
        height,
        width,
        shear=0.3 * share,
        across=int(150 / 331 * width * share),
        down=int(150 / 331 * height * share),
        degrees=30 * share,
        factor=0.9 * share,
        bits=8 - round(4 * share),
        threshold=255 * (1 - share),
    )


def parameter_table(
    height: int,
    width: int,
    *,
    shear: float,
    across: int,
    down: int,
    degrees: float,
    factor: float,
    bits: int,
    threshold: float,
) -> NDArray[np.float32]:
    """Return the parameters of each operation in KINDS for the signs - and +, float32 [14, 2, 6].

    The last axis holds a 2 x 3 matrix for `pixels.affine` if the operation is affine, the factors of brightness,
    contrast and saturation if it changes colours, and one value otherwise. Unused places are 0.

    `shear` is the slope of a sheared side, `across` and `down` are translations in pixels, and `degrees` is an angle. A
    factor is 1 - `factor` or 1 + `factor`. `bits` are kept by posterize, and `threshold` is solarize's, in grey levels.
    Shear keeps the top left corner in place, as in Pillow.
    """
    table = np.zeros((len(KINDS), 2, 6), dtype=np.float32)
    tall, wide = height / width, width / height
    for positive, sign in enumerate((-1, 1)):
        slope, changed, angle = sign * shear, 1 + sign * factor, math.radians(sign * degrees)
        sine, cosine = math.sin(angle), math.cos(angle)
        found = {
            "shear_x": (1, slope * tall, slope * tall, 0, 1, 0),
            "shear_y": (1, 0, 0, slope * wide, 1, slope * wide),
            "translate_x": (1, 0, -2 * sign * across / width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, -2 * sign * down / height),
            "rotate": (cosine, -sine * tall, 0, sine * wide, cosine, 0),
            "brightness": (changed, 1, 1),
            "contrast": (1, changed, 1),
            "color": (1, 1, changed),
            "sharpness": (changed,),
            "posterize": (256 - (1 << (8 - bits)),),
            "solarize": (threshold,),
        }
        for kind, values in found.items():
            table[KINDS.index(kind), positive, : len(values)] = values
    return table


def rand_augment(
    images: torch.Tensor, numbers: NDArray[np.float32], operations: int, magnitude: int, fill: torch.Tensor
) -> torch.Tensor:
    """Return each sample of `images` after `operations` operations at `magnitude` (0..10), uint8 [n, H, W, 3].

    `numbers` is float32 [n, 2 * operations or more] in [0, 1), two per operation: the kind and the sign. `fill`,
    float32 [3] in grey levels, fills the areas that shears, translations and rotations leave empty.
    """
    kinds = (numbers[:, 0 : 2 * operations : 2] * len(KINDS)).astype(np.int64)
    signs = (numbers[:, 1 : 2 * operations : 2] >= 0.5).astype(np.int64)
    return apply_kinds(images, kinds, parameters(magnitude, *images.shape[1:3])[kinds, signs], fill)


def apply_kinds(
    images: torch.Tensor, kinds: NDArray[np.int64], values: NDArray[np.float32], fill: torch.Tensor
) -> torch.Tensor:
    """Return `images`, uint8 [n, H, W, 3], after the operations `kinds`, int64 [n, operations], which index KINDS.

    `values`, float32 [n, operations, 6], are their parameters, and `fill` is as in `rand_augment`. The kinds are on the
    host, which therefore knows which samples each operation applies to, and never waits for the device.
    """
    order = np.argsort(kinds, axis=0, kind="stable")
    order_there = to_device(order, images.device)
    values_there = to_device(np.take_along_axis(values, order[:, :, None], axis=0), images.device)
    result = images.clone()
    for layer in range(kinds.shape[1]):
        groups = np.array(_GROUPS)[kinds[order[:, layer], layer]]
        bounds = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1), len(groups)]
        for start, stop in pairwise(bounds):
            if groups[start] != "identity":
                rows = order_there[start:stop, layer]
                changed = _apply(groups[start], result[rows], values_there[start:stop, layer], fill)
                result.index_copy_(0, rows, changed)
    return result


def _apply(group: str, images: torch.Tensor, values: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    if group == "affine":
        return pixels.affine(images, values.reshape(-1, 2, 3), fill)
    if group == "color":
        return color_jitter(images, values[:, :3])
    if group in ("autocontrast", "equalize"):
        return pixels.autocontrast(images) if group == "autocontrast" else pixels.equalize(images)
    function = {"sharpness": pixels.sharpness, "posterize": pixels.posterize, "solarize": pixels.solarize}[group]
    return function(images, values[:, 0])
