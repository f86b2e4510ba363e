"""Find duplicate photographs: compute perceptual hashes, and find the pairs that differ in few bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class Duplicates:
    """Pairs of similar photographs.

    - `pairs`: the positions of the two photographs of each of m pairs, int64 [m, 2], the smaller position first.
    - `distances`: the number of bits in which the hashes of each pair differ, int64 [m].
    - `leaked`: the positions of validation samples that are similar to a training sample, and of test samples that are
      similar to a training or validation sample, int64.
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.int64]
    leaked: NDArray[np.int64]


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the perceptual hash of each image in `thumbnails`, uint8 RGB [n, 32, 32, 3], as uint64 [n].

    The bits are those of `imagehash.phash`, the first one highest: whether each of the 8 x 8 lowest frequencies of the
    luma's DCT-II is above their median (Zauner 2010). imagehash isn't used, because it takes ten times as long.
    """
    from scipy.fft import dct  # type: ignore[import-untyped]

    # Pillow's convert("L"), in its fixed-point arithmetic.
    luma = (thumbnails.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000) >> 16
    frequencies = dct(dct(luma.astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(len(luma), HASH_BITS)
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def find_duplicates(hashes: NDArray[np.uint64], splits: NDArray[np.int64], distance: int) -> Duplicates:
    """Return the pairs of samples whose `hashes`, uint64 [n], differ in at most `distance` bits (0 to 32).

    `splits` is int64 [n]: 0 train, 1 val, 2 test. Samples of a split with the same hash are all paired with the first
    of them, and only that one is paired with other samples. So a thousand copies make a thousand pairs, not half a
    million.
    """
    different, which = np.unique(hashes, return_inverse=True)
    first = np.full((len(different), 3), len(hashes), np.int64)  # the first sample of each hash in each split
    np.minimum.at(first, (which, splits), np.arange(len(hashes)))
    there = first < len(hashes)
    own = first[which, splits]
    copies = np.flatnonzero(own != np.arange(len(hashes)))
    found = [(own[copies], copies, np.zeros(len(copies), np.int64))]
    left, right, apart = _near(different, distance)
    for one, other in itertools.product(range(3), repeat=2):
        if one < other:
            both = there[:, one] & there[:, other]
            found.append((first[both, one], first[both, other], np.zeros(int(both.sum()), np.int64)))
        both = there[left, one] & there[right, other]
        found.append((first[left[both], one], first[right[both], other], apart[both]))
    ones, others, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    pairs = np.sort(np.stack([ones, others], axis=1), axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], distances))
    reach = there.copy()
    np.logical_or.at(reach, left, there[right])
    np.logical_or.at(reach, right, there[left])
    earlier = np.cumsum(reach, axis=1) > reach
    return Duplicates(pairs[order], distances[order], np.flatnonzero(earlier[which, splits]))


def _near(hashes: NDArray[np.uint64], distance: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of distinct `hashes` that differ in at most `distance` bits.

    The result is three arrays, int64 [m]: the positions of the first and of the second hash of each pair, and the
    number of bits in which they differ.

    This is multi-index hashing (Norouzi et al. 2012): if hashes are cut into `distance` + 1 bands, two such hashes
    agree in at least one band. So only hashes with the same value in a band are compared. 100,000 hashes take a second.
    """
    found = [np.empty((3, 0), np.int64)]
    for left, right in _candidates(hashes, distance + 1) if distance else ():
        apart = _ones(hashes[left] ^ hashes[right])
        close = apart <= distance
        if close.any():
            left, right = left[close], right[close]
            found.append(np.stack([np.minimum(left, right), np.maximum(left, right), apart[close]]))
    left, right, apart = np.unique(np.concatenate(found, axis=1), axis=1)  # some agree in several bands
    return left, right, apart


def _candidates(hashes: NDArray[np.uint64], bands: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of positions with the same value in a band, as arrays that are no longer than `hashes`."""
    for low, high in itertools.pairwise(HASH_BITS * band // bands for band in range(bands + 1)):
        values = hashes >> np.uint64(low) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(values, kind="stable")
        values = values[order]
        # Compare neighbours at distances 1, 2, 3, ... in the sorted list, as long as any two still agree.
        starts, step = np.arange(len(values)), 0
        while len(starts):
            step += 1
            starts = starts[starts < len(values) - step]
            starts = starts[values[starts] == values[starts + step]]
            yield order[starts], order[starts + step]


def _ones(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    # numpy.bitwise_count needs NumPy 2.
    """Return the number of ones in each hash, int64 [n]."""
    return _ONES[hashes.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)
