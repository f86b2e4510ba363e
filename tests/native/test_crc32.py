"""CRC-32 against zlib's, of every length up to some folds and at every alignment."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from fasttrain.shards.checksum import crc32

_native = pytest.importorskip("fasttrain._native")


def test_it_is_zlibs():
    data = np.random.default_rng(0).integers(0, 256, 70_000).astype(np.uint8)
    lengths = [*range(300), 1000, 53_001, 65_536]
    spans = [(start, length) for length in lengths for start in (0, 1, 7, 15)]
    offsets, sizes = (np.array(each, np.uint64) for each in zip(*spans, strict=True))
    found = _native.crc32s([data], np.zeros(len(spans), np.int32), offsets, sizes)
    expected = [zlib.crc32(data[start : start + length].tobytes()) for start, length in spans]
    assert found.dtype == np.uint32 and found.tolist() == expected


@pytest.mark.parametrize("there", [True, False])
def test_with_and_without_the_native_module(there, monkeypatch):
    monkeypatch.setattr("fasttrain.shards.checksum.native_available", lambda: there)
    assert [crc32(data) for data in (b"", b"123456789", bytes(1000))] == [0, 0xCBF43926, zlib.crc32(bytes(1000))]


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        _native.crc32s([b""], np.zeros(2, np.int32), np.zeros(2, np.uint64), np.zeros(1, np.uint64))
