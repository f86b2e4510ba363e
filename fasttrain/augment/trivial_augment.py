"""TrivialAugment (Müller & Hutter 2021, arXiv:2103.10158): one operation per sample, each at a random magnitude."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.augment.rand_augment import KINDS, apply_kinds, parameter_table

if TYPE_CHECKING:
    import torch

MAGNITUDES = 31
_TRANSLATION = 32  # px, regardless of the image's size


@cache
def wide_parameters(height: int, width: int) -> NDArray[np.float32]:
    """Return a `rand_augment.parameter_table` for each of the 31 magnitudes, float32 [31, 14, 2, 6].

    The ranges are those of torchvision's `TrivialAugmentWide`: shear 0.99, 32 px, 135 degrees, factors 1 ± 0.99,
    posterize to 2 bits, solarize from 0.
    """
    tables = []
    for share in np.linspace(0, 1, MAGNITUDES).tolist():
        pixels = int(_TRANSLATION * share)
        tables.append(
            parameter_table(
                height,
                width,
                shear=0.99 * share,
                across=pixels,
                down=pixels,
                degrees=135 * share,
                factor=0.99 * share,
                bits=8 - round(6 * share),
                threshold=255 * (1 - share),
            )
        )
    return np.stack(tables)


def trivial_augment(images: torch.Tensor, numbers: NDArray[np.float32], fill: torch.Tensor) -> torch.Tensor:
    """Return each sample of `images` after one operation, uint8 [n, H, W, 3].

    `numbers` is float32 [n, 3 or more] in [0, 1): the kind, the magnitude and the sign. `fill`, float32 [3] in grey
    levels, fills the areas that shears, translations and rotations leave empty.
    """
    kinds = (numbers[:, :1] * len(KINDS)).astype(np.int64)
    magnitudes = (numbers[:, 1:2] * MAGNITUDES).astype(np.int64)
    signs = (numbers[:, 2:3] >= 0.5).astype(np.int64)
    return apply_kinds(images, kinds, wide_parameters(*images.shape[1:3])[magnitudes, kinds, signs], fill)
