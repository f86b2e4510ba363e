"""Exchanging Huffman codes gives libjpeg's own bytes, and leaves to libjpeg what is amiss."""

from __future__ import annotations

import jpegs
import numpy as np
import pytest

native = pytest.importorskip("fasttrain._native")

SIZES = [(1, 1), (8, 8), (64, 48), (37, 29), (17, 65), (130, 3)]
INTERVALS = ["mcu", "row", "none"]


# One scan a component is left to libjpeg, one of all components isn't, and it alone holds blocks beyond the edge.
@pytest.mark.parametrize("simd", ["plain", None])
@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_the_same_bytes_as_libjpeg(kind: str, simd: str | None) -> None:
    before = native.set_simd(simd) if simd else None
    try:
        for width, height in SIZES:
            for interval in INTERVALS:
                for optimize in (True, False):
                    wanted = native.cut(jpegs.sample(kind, width, height, 0, False), interval, optimize)
                    for restart in (0, 1, 3):
                        assert native.cut(jpegs.sample(kind, width, height, restart), interval, optimize) == wanted
    finally:
        if before:
            native.set_simd(before)


def grey_block(*symbols: int) -> bytes:
    """A JPEG of one block: DC 0, these AC symbols, ones as the bits that follow."""
    bits = "0000" + "".join(jpegs._AC_CODE[symbol] + "1" * (symbol & 15) for symbol in symbols)
    source = jpegs.random_jpeg(8, 8, jpegs.FACTORS["grey"])
    return source[: source.index(b"\xff\xda") + 10] + jpegs._entropy_bytes(bits) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("symbols", "plain"),
    [
        ((0x01, 0xF0, 0xF0, 0x00), (0x01, 0x00)),
        ((0xE1, 0xF0, 0xF0, 0xF0), (0xE1, 0x00)),  # zeros to the last coefficient need no end
        ((0xF0, 0xF0, 0xF0, 0xE2), (0xF0, 0xF0, 0xF0, 0xE2)),
    ],
)
def test_needless_runs_of_zeros_go(symbols: tuple[int, ...], plain: tuple[int, ...]) -> None:
    result = native.cut(grey_block(*symbols), "mcu", True)
    assert result == native.cut(grey_block(*plain), "mcu", True)
    np.testing.assert_array_equal(jpegs.decode(result), jpegs.decode(grey_block(*symbols)))


def test_libjpeg_judges_what_is_amiss() -> None:
    source = jpegs.sample("4:2:0", 40, 30)
    wanted = native.cut(source, "mcu", True)
    for harmless in (b"\xff", b"\xff\xff\xff", b"\x55"):
        assert native.cut(source[:-2] + harmless + source[-2:], "mcu", True) == wanted
    assert native.cut(source + b"a second picture", "mcu", True) == wanted
    with pytest.raises(ValueError, match="extraneous bytes"):
        native.cut(source[:-2] + b"\x55" * 20 + source[-2:], "mcu", True)
    with pytest.raises(ValueError, match="found marker 0xd3 instead of RST2"):
        native.cut(jpegs.sample("4:2:0", 40, 30, 1).replace(b"\xff\xd2", b"\xff\xd3"), "mcu", True)
