"""The random numbers of batch augmentations: a pure function of (seed, epoch, sample id).

Each sample has one row of 16 numbers per epoch, whichever operations are enabled. So enabling one does not change the
draws of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.loaders.philox import AUGMENT_STREAM, random_words

if TYPE_CHECKING:
    import torch

NUMBERS = 16
COLOR_JITTER = slice(0, 3)
RANDOM_ERASING = slice(3, 8)
RAND_AUGMENT = slice(8, NUMBERS)  # also for TrivialAugment: a run has one of the two

_CHUNK = 1 << 16


def epoch_numbers(seed: int, epoch: int, count: int, first: int = 0) -> NDArray[np.float32]:
    """Return float32 [count, 16] in [0, 1). Row i belongs to sample id `first + i`.

    This takes 64 bytes per sample (5 MB for Food-101, 82 MB for ImageNet), and up to 25 MB more while drawing. `seed`
    and `epoch` are as in `plan.random_words`.
    """
    numbers = np.empty((count, NUMBERS), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        part = numbers[start : start + _CHUNK]
        words = random_words(seed, epoch, AUGMENT_STREAM, len(part), NUMBERS, first + start)
        # Use the upper 24 bits, which float32 holds exactly. The 53 bits of `plan.unit` could round up to 1.
        part[:] = words >> np.uint64(40)
        part *= np.float32(2.0**-24)
    return numbers


class EpochNumbers:
    """Holds the random numbers of all samples for one epoch, and draws them when another epoch is requested."""

    def __init__(self, ids: NDArray[np.int64], seed: int) -> None:
        """Prepare for the samples `ids`, int64 [n]. Memory is taken for all ids from the smallest to the greatest."""
        self._first, self._count = int(ids.min()), int(ids.max() - ids.min()) + 1
        self._seed = seed
        self._epoch = -1
        self._table = np.empty((0, NUMBERS), dtype=np.float32)

    def of(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.float32]:
        """Return the random numbers of the samples `ids`, int64 [n], in `epoch`: float32 [n, 16] in [0, 1)."""
        if epoch != self._epoch:
            self._table = epoch_numbers(self._seed, epoch, self._count, self._first)
            self._epoch = epoch
        return self._table[ids - self._first]


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Return `array` as a tensor on `device`. The host does not wait for the copy."""
    import torch

    from fasttrain.device import copy_to

    return copy_to(device, torch.from_numpy(array))
