"""Sets of classes stored as bits, the form of multi-label data in memory and in the index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bytes_for(classes: int) -> int:
    """Return the number of bytes with one bit for each of `classes` classes."""
    return -(-classes // 8)


def packed(sets: Sequence[Sequence[int]], classes: int) -> NDArray[np.uint8]:
    """Return n sets of class numbers as bits, uint8 [n, bytes_for(classes)].

    Bit `c % 8` of byte `c // 8` in row i is 1 if set i contains class c.
    """
    bits = np.zeros((len(sets), bytes_for(classes)), np.uint8)
    rows = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
    members = np.array([member for each in sets for member in each], np.int64)
    np.bitwise_or.at(bits, (rows, members >> 3), np.left_shift(1, members & 7).astype(np.uint8))
    return bits


def unpacked(bits: NDArray[np.uint8], classes: int) -> NDArray[np.bool_]:
    """Return sets of classes as booleans, bool [n, classes]. This is the inverse of `packed`."""
    return np.unpackbits(np.ascontiguousarray(bits), axis=1, count=classes, bitorder="little").view(np.bool_)


def members(bits: NDArray[np.uint8]) -> list[int]:
    """Return the class numbers in one set, uint8 [bytes], in ascending order."""
    return np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()


def widened(bits: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """Return the same sets, uint8 [n, bytes_for(classes)], for a larger number of `classes`."""
    return np.pad(bits, ((0, 0), (0, bytes_for(classes) - bits.shape[1])))
