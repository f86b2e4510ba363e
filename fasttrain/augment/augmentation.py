"""Build a run's augmentation from its settings, for training on batches and for showing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.config.groups import AugmentationSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Augmentation:
    """Augments batches on their device. `pixels` changes images before normalization, `mix` blends them after it.

    Either is None if no such augmentation is enabled.
    """

    pixels: BatchAugment | None = None
    mix: PlannedMixup | None = None

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        ids: NDArray[np.int64],
        epoch: int,
        normalize: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the model's inputs and targets for a loader's batch.

        `images` are uint8 [n, H, W, 3] and `labels` int64 [n], both on the device. `ids` are int64 [n]. `normalize`
        turns images into inputs, float [n, 3, H, W]. Targets are int64 [n], or float [n, classes] with `mix`.
        """
        if self.pixels is not None and len(ids):
            images = self.pixels(images, ids, epoch)
        inputs = normalize(images)
        return self.mix(inputs, labels, ids, epoch) if self.mix is not None and len(ids) else (inputs, labels)


def make_augmentation(
    settings: AugmentationSettings,
    ids: NDArray[np.int64],
    *,
    seed: int,
    classes: int,
    mean: tuple[float, ...],
    device: torch.device,
) -> Augmentation:
    """Return the augmentation that `settings` ask for.

    `ids`, int64 [n], are the samples of the training split. `mean`, the model's mean of RGB in [0, 1], is the colour
    of erased and empty areas.
    """
    pixels = mix = None
    if settings.color_jitter or settings.rand_augment or settings.trivial_augment or settings.random_erasing:
        pixels = BatchAugment(
            ids,
            seed,
            mean,
            device,
            color_jitter=settings.color_jitter,
            rand_augment=settings.rand_augment,
            trivial_augment=settings.trivial_augment,
            random_erasing=settings.random_erasing,
        )
    if settings.mixup or settings.cutmix:
        mix = PlannedMixup(settings.mixup, settings.cutmix, classes, seed)
    return Augmentation(pixels, mix)
