"""Show a batch as the model sees it: its pictures after augmentation and mixing, and the classes in each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from fasttrain.augment.augmentation import Augmentation

Shares = list[tuple[str, float]]
"""The classes in one picture with their shares in (0, 1], the greatest first. They sum to 1, except for label sets."""


def as_seen(
    images: torch.Tensor,
    labels: torch.Tensor,
    ids: NDArray[np.int64],
    epoch: int,
    classes: Sequence[str],
    augmentation: Augmentation,
) -> tuple[NDArray[np.uint8], list[Shares]]:
    """Augment a loader's batch as training does, but without normalizing it.

    Returns the pictures, uint8 [n, H, W, 3], and for each the names of its classes with their shares. `images`: uint8
    [n, H, W, 3]. `labels`: int64 [n], or float [n, classes] for multi-label data, on the same device. `ids`: int64 [n],
    row numbers of the shards' index. `epoch`: from 0; the random augmentation depends on it and on `ids`. `classes`:
    the names, by label. `augmentation`: the one of the training step.
    """
    import torch

    # Training normalizes before it mixes. Normalizing is affine, so mixing plain pixels gives the same picture.
    inputs, targets = augmentation(images, labels, ids, epoch, lambda pixels: pixels.float().permute(0, 3, 1, 2))
    pixels = inputs.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    if targets.ndim == 1:
        return pixels, [[(classes[label], 1.0)] for label in targets.tolist()]
    return pixels, [_shares(target, classes) for target in targets.tolist()]


def _shares(target: Sequence[float], classes: Sequence[str]) -> Shares:
    present = sorted(((share, label) for label, share in enumerate(target) if share > 0), reverse=True)
    return [(classes[label], share) for share, label in present]
