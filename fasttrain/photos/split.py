"""Which photograph validates, and in which order photographs lie in the shards.

Both come from raw words of NumPy's `Philox` (Salmon et al., SC 2011) and a stable argsort:
`Generator.permutation` may change between NumPy releases, and with it everyone's validation score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_VALIDATION_STREAM = 1 << 62
_ORDER_STREAM = _VALIDATION_STREAM + 1


def stratified_split(labels: NDArray[np.int32], val_fraction: float, seed: int) -> NDArray[np.bool_]:
    """bool [n], True where the photograph goes into validation. `labels` is int32 [n], `seed` in [0, 2**63).

    Of a class's n photographs, round(n * val_fraction) go there: never all, and at least one where n >= 2 and
    the fraction (in [0, 1)) is not 0. A class's choice does not change when another class gains photographs.
    """
    chosen = np.zeros(len(labels), dtype=np.bool_)
    if not val_fraction:
        return chosen
    by_class = np.argsort(labels, kind="stable")
    names, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    for label, start, count in zip(names.tolist(), starts.tolist(), counts.tolist(), strict=True):
        take = min(max(round(count * val_fraction), 1), count - 1)
        rows = by_class[start : start + count]
        chosen[rows[_shuffle(count, seed, _VALIDATION_STREAM, label)[:take]]] = True
    return chosen


def shuffled(count: int, seed: int, block: int) -> NDArray[np.int64]:
    """int64 [count], a permutation of 0 .. count - 1; another one for each `block` and `seed`."""
    return _shuffle(count, seed, _ORDER_STREAM, block)


def _shuffle(count: int, seed: int, stream: int, block: int) -> NDArray[np.int64]:
    bits = np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64), counter=np.array([0, block, 0, 0], dtype=np.uint64)
    )
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)
