"""Find duplicate photographs: perceptual hashes, and the pairs of hashes that are close to each other."""

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
    """Pairs of positions, int64 [m, 2], the smaller first, and their distances, int64 [m]: the bits that differ.

    `leaked`: int64, the positions of validation and test samples that are close to a sample of an earlier split.
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.int64]
    leaked: NDArray[np.int64]


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the perceptual hashes of uint8 RGB [n, 32, 32, 3] as uint64 [n]: `imagehash.phash`'s bits, the first one
    highest.

    The bits are the signs, relative to their median, of the 8 x 8 lowest frequencies of the luma's DCT-II (Zauner
    2010). It is implemented here because a batch takes a tenth of the time that imagehash takes image by image.
    """
    from scipy.fft import dct  # type: ignore[import-untyped]

    # Pillow's convert("L"), in its fixed-point arithmetic.
    luma = (thumbnails.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000) >> 16
    frequencies = dct(dct(luma.astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(len(luma), HASH_BITS)
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def find_duplicates(hashes: NDArray[np.uint64], splits: NDArray[np.int64], distance: int) -> Duplicates:
    """Return the pairs of samples whose `hashes`, uint64 [n], differ in at most `distance` bits (0 to 32).

    `splits`, int64 [n]: 0 train, 1 val, 2 test. Among samples with the same hash, the first in each split represents
    the others of that split, which are paired only with it: a thousand copies make a thousand pairs, not half a
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
    """Return pairs of positions of distinct `hashes` at most `distance` bits apart, and the distances: int64 [m] each.

    Multi-index hashing (Norouzi et al. 2012): if hashes are cut into `distance` + 1 bands, two such hashes agree in at
    least one band. So only those with the same value in a band are compared. 100,000 hashes take a second.
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
    """Yield pairs of positions that agree in a band, in arrays no longer than `hashes`."""
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


def _ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    # numpy.bitwise_count came with NumPy 2.
    return _ONES[words.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)
