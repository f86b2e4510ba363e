"""Compute CRC-32C (Castagnoli), the checksum of TFRecords, with NumPy. Python has no function for this. The checksum of
50 kB takes 0.3 ms."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_BLOCK = 1024
_AT_ONCE = 256 * _BLOCK
_SHORT = 32


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`."""
    bytewise, places, ahead = _tables()
    if len(data) < _SHORT:
        state = 0xFFFFFFFF
        for byte in data:
            state = bytewise[(state ^ byte) & 255] ^ state >> 8
        return state ^ 0xFFFFFFFF
    # Zeros in front change nothing if the state starts from 0. So the usual start, all ones, is replaced by flipping
    # the bits of the first four bytes.
    padded = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) :][:4] ^= 255
    first, second, third, fourth = ahead
    state = 0
    for start in range(0, len(padded), _AT_ONCE):
        blocks = padded[start : start + _AT_ONCE].reshape(-1, _BLOCK)
        index = blocks + np.arange(0, 256 * _BLOCK, 256)
        for block in np.bitwise_xor.reduce(places.take(index), axis=1).tolist():
            state = (
                block ^ first[state & 255] ^ second[state >> 8 & 255] ^ third[state >> 16 & 255] ^ fourth[state >> 24]
            )
    return state ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data` in the masked form that TFRecords store."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _tables() -> tuple[list[int], NDArray[np.uint32], list[list[int]]]:
    """Return tables of the effect of each byte value on the checksum.

    There is one for a single byte, one for each position in a block, and one for each of the first four positions.
    """
    states = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = np.where(states & 1, states >> 1 ^ np.uint32(_POLYNOMIAL), states >> 1)
    places = np.empty((_BLOCK, 256), np.uint32)
    places[-1] = states
    for place in range(_BLOCK - 2, -1, -1):
        places[place] = states[places[place + 1] & 255] ^ places[place + 1] >> 8
    return states.tolist(), places.reshape(-1), places[:4].tolist()
