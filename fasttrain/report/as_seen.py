"""A batch as the model sees it, for people: pixels after augmentation and mixing, and whose shares are in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from fasttrain.augment.augmentation import Augmentation

Shares = list[tuple[str, float]]
"""The classes in one picture and their shares of it, the greatest first; they sum to 1, but for sets of classes."""


def as_seen(
    images: torch.Tensor,
    labels: torch.Tensor,
    ids: NDArray[np.int64],
    epoch: int,
    classes: Sequence[str],
    augmentation: Augmentation,
) -> tuple[NDArray[np.uint8], list[Shares]]:
    """Return a loader's batch as training augments it, without the normalization: pictures and their classes' shares.

    `images` are uint8 [n, H, W, 3] and `labels` int64 [n] or float [n, classes], on one device; `ids` are int64 [n].
    The pictures are uint8 [n, H, W, 3].
    """
    import torch

    # Training mixes after it normalizes; that is affine, so mixing without it gives the same picture.
    inputs, targets = augmentation(images, labels, ids, epoch, lambda pixels: pixels.float().permute(0, 3, 1, 2))
    pixels = inputs.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    if targets.ndim == 1:
        return pixels, [[(classes[label], 1.0)] for label in targets.tolist()]
    return pixels, [_shares(target, classes) for target in targets.tolist()]


def _shares(target: Sequence[float], classes: Sequence[str]) -> Shares:
    held = sorted(((share, label) for label, share in enumerate(target) if share > 0), reverse=True)
    return [(classes[label], share) for share, label in held]
