"""A batch as the model sees it, for people: pixels after augmentation and mixing, and whose shares are in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from fasttrain.augment.batch import BatchAugment
    from fasttrain.augment.mix import PlannedMixup

Shares = list[tuple[str, float]]
"""The classes in one picture and their shares of it, the greatest first; they sum to 1."""


def as_seen(
    images: torch.Tensor,
    labels: torch.Tensor,
    ids: NDArray[np.int64],
    epoch: int,
    classes: Sequence[str],
    augment: BatchAugment | None,
    mix: PlannedMixup | None,
) -> tuple[NDArray[np.uint8], list[Shares]]:
    """A loader's batch, uint8 [n, H, W, 3] and int64 [n], on one device, augmented and mixed as training does it but
    for the normalisation: uint8 [n, H, W, 3], and the n pictures' shares."""
    import torch

    if augment is not None:
        images = augment(images, ids, epoch)
    if mix is None:
        return images.cpu().numpy(), [[(classes[label], 1.0)] for label in labels.tolist()]
    # Training mixes after it normalises; that is affine, so mixing before it comes to the same picture.
    mixed, targets = mix(images.float().permute(0, 3, 1, 2), labels, ids, epoch)
    pixels = mixed.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return pixels, [_shares(target, classes) for target in targets.tolist()]


def _shares(target: Sequence[float], classes: Sequence[str]) -> Shares:
    held = sorted(((share, label) for label, share in enumerate(target) if share > 0), reverse=True)
    return [(classes[label], share) for share, label in held]
