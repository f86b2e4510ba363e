"""Random words of the augmentation plan and of the augmentation on the device.

They are NumPy's raw `Philox` (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), because the
methods of `numpy.random.Generator` may change between versions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER_STREAM, CROP_STREAM, AUGMENT_STREAM, MIX_STREAM, SHARD_STREAM, CLASS_STREAM, DRAW_STREAM = range(7)
"""The streams: independent random words for each purpose."""


def random_words(seed: int, epoch: int, stream: int, count: int, words: int, first: int = 0) -> NDArray[np.uint64]:
    """Return random words, uint64 [count, words]. Row i belongs to sample id `first + i`, for any `count` and `first`.

    `words` must be a multiple of 4 (a Philox block), `seed` in [0, 2**64), `epoch` in [0, 2**56), and `stream` in [0,
    256). Raises ValueError otherwise.
    """
    if words % 4 or not 0 <= seed < 1 << 64 or not 0 <= epoch < 1 << 56 or not 0 <= stream < 256:
        raise ValueError(f"no such stream: seed={seed} epoch={epoch} stream={stream} words={words}")
    key = np.array([seed, epoch << 8 | stream], dtype=np.uint64)
    counter = np.array([first * (words // 4), 0, 0, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count * words).reshape(count, words)


def unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn random words into float64 in [0, 1), from the upper 53 bits of each."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
