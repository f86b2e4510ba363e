"""Apply all augmentations of a batch between the loader and the model, in timm's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.augment.color import color_jitter, draw_factors
from fasttrain.augment.erasing import draw_boxes, erase
from fasttrain.augment.numbers import COLOR_JITTER, RAND_AUGMENT, RANDOM_ERASING, EpochNumbers, to_device
from fasttrain.augment.rand_augment import rand_augment
from fasttrain.augment.trivial_augment import trivial_augment

if TYPE_CHECKING:
    import torch

    from fasttrain.config.values import RandAugment

_CPU_PART = 8  # larger parts exceed the cache and malloc's pools: 1.5 times slower at 64


class BatchAugment:
    """Applies RandAugment or TrivialAugment, then colour jitter, then random erasing, each if it is enabled.

    A sample's result depends only on its pixels and on (seed, epoch, sample id), not on the rest of its batch.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        seed: int,
        mean: tuple[float, ...],
        device: torch.device,
        *,
        color_jitter: float = 0.0,
        rand_augment: RandAugment | None = None,
        trivial_augment: bool = False,
        random_erasing: float = 0.0,
    ) -> None:
        """Prepare the augmentations for the samples `ids`, int64 [n], of the training split.

        `mean`: the model's mean of RGB in [0, 1], the colour of erased and empty areas. `color_jitter`: its strength,
        in [0, 1]. `random_erasing`: its probability.
        """
        import torch

        self._numbers = EpochNumbers(ids, seed)
        self._fill = torch.tensor(mean, device=device) * 255
        self._fill_bytes = self._fill.round().to(torch.uint8)
        self._color_jitter, self._rand_augment, self._random_erasing = color_jitter, rand_augment, random_erasing
        self._trivial_augment = trivial_augment

    def __call__(self, images: torch.Tensor, ids: NDArray[np.int64], epoch: int) -> torch.Tensor:
        """Return the augmented images of `epoch`, uint8 [n, H, W, 3], on the device of `images`, which don't change.

        `images` are uint8 [n, H, W, 3], and `ids`, int64 [n], are their sample ids.
        """
        import torch

        numbers = self._numbers.of(ids, epoch)
        if images.device.type != "cpu":
            return self._augmented(images, numbers)
        parts = zip(images.split(_CPU_PART), np.split(numbers, range(_CPU_PART, len(ids), _CPU_PART)), strict=True)
        return torch.cat([self._augmented(*part) for part in parts])

    def _augmented(self, images: torch.Tensor, numbers: NDArray[np.float32]) -> torch.Tensor:
        if (chosen := self._rand_augment) is not None:
            images = rand_augment(images, numbers[:, RAND_AUGMENT], chosen.n, chosen.m, self._fill)
        if self._trivial_augment:
            images = trivial_augment(images, numbers[:, RAND_AUGMENT], self._fill)
        if self._color_jitter:
            factors = draw_factors(numbers[:, COLOR_JITTER], self._color_jitter)
            images = color_jitter(images, to_device(factors, images.device))
        if self._random_erasing:
            boxes = draw_boxes(numbers[:, RANDOM_ERASING], self._random_erasing, *images.shape[1:3])
            images = erase(images, to_device(boxes, images.device), self._fill_bytes)
        return images
