"""Sampling factors, colours and tables of every kind: native, cut and sliced files have Pillow's pixels.

At their own size they differ by the rounding of chroma alone. Resized, files whose chroma is at the luma's resolution
or half of it differ by what is written in docs/design.md; all others go through libjpeg.
"""

from __future__ import annotations

import io
import itertools

import jpegs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as F

from fasttrain.photos.cut import slice_jpeg
from fasttrain.photos.normalize import BrokenPhoto, normalize

native = pytest.importorskip("fasttrain._native")

Picture = NDArray[np.uint8]
MAX_BLOCKS = 10  # in an MCU, by the standard
ROUNDING = 2


def pillow(jpeg: bytes) -> Picture:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def resized(pixels: Picture, size: tuple[int, int]) -> Picture:
    channels = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return F.resize(channels, list(size), antialias=True).permute(1, 2, 0).numpy()


def apart(a: Picture, b: Picture) -> Picture:
    return np.abs(a.astype(int) - b)


def whole(jpeg: bytes, height: int, width: int) -> Picture:
    return native.decode_crop(jpeg, (0, 0, height, width), False, (height, width))


def all_factors() -> list[jpegs.Factors]:
    """Every three components of factors 1 and 2, and some of 3 and 4, that libjpeg decodes."""
    ones_and_twos = itertools.product(itertools.product((1, 2), repeat=2), repeat=3)
    rare: list[jpegs.Factors] = [
        ((4, 1), (1, 1), (1, 1)),
        ((4, 1), (2, 1), (1, 1)),
        ((4, 2), (1, 1), (1, 1)),
        ((1, 4), (1, 1), (1, 2)),
        ((3, 1), (1, 1), (3, 1)),
        ((1, 3), (1, 1), (1, 1)),
        ((1, 2), (3, 1), (3, 2)),
        ((1, 1), (4, 1), (4, 1)),
        ((1, 1), (1, 1), (1, 4)),
    ]
    return [
        factors
        for factors in [*ones_and_twos, *rare]
        if sum(h * v for h, v in factors) <= MAX_BLOCKS
        and all(max(f[axis] for f in factors) % f[axis] == 0 for f in factors for axis in (0, 1))
    ]


@pytest.mark.parametrize("restart", [0, 1, 2])
def test_all_sampling_factors(restart: int) -> None:
    for factors in all_factors():
        for height, width in [(60, 83), (17, 9), (3, 4)]:
            jpeg = jpegs.flat_jpeg(width, height, factors, restart=restart)
            full = pillow(jpeg)
            assert apart(whole(jpeg, height, width), full).max() <= ROUNDING, (factors, height, width)
            size = (height * 2 // 3 + 1, width * 3 // 2)
            got = native.decode_crop(jpeg, (0, 0, height, width), False, size)
            assert apart(got, resized(full, size)).mean() <= 2, (factors, height, width)
            cut = native.cut(jpeg, "mcu", True)
            np.testing.assert_array_equal(pillow(cut), full)
            np.testing.assert_array_equal(native.decode_crop(cut, (0, 0, height, width), False, size), got)


@pytest.mark.parametrize("kind", jpegs.UNUSUAL)
def test_crops_of_unlike_chroma(kind: str) -> None:
    jpeg = native.cut(jpegs.sample(kind, 150, 90), "mcu", True)
    full = pillow(jpeg)
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = int(rng.integers(1, 91)), int(rng.integers(1, 151))
        box = (int(rng.integers(91 - height)), int(rng.integers(151 - width)), height, width)
        crop = full[box[0] : box[0] + height, box[1] : box[1] + width]
        got = native.decode_crop(jpeg, box, False, (40, 60))
        assert apart(got, resized(crop, (40, 60))).max() <= ROUNDING
        part, top, left = slice_jpeg(jpeg, box)
        np.testing.assert_array_equal(pillow(part)[top : top + height, left : left + width], crop)
        np.testing.assert_array_equal(native.decode_crop(part, (top, left, height, width), False, (40, 60)), got)


@pytest.mark.parametrize("factors", [((3, 1), (2, 1), (2, 1)), ((1, 1), (1, 3), (1, 2)), ((4, 1), (3, 1), (1, 1))])
def test_fractional_ratios_are_refused_by_all(factors: jpegs.Factors) -> None:
    jpeg = jpegs.flat_jpeg(50, 40, factors)
    with pytest.raises(OSError):
        pillow(jpeg)
    with pytest.raises(ValueError, match="libjpeg: "):
        whole(jpeg, 40, 50)
    for interval in ("mcu", "row", "none"):
        with pytest.raises(BrokenPhoto):
            normalize(jpeg, cut=interval)


def test_more_than_ten_blocks_in_an_mcu_are_refused() -> None:
    jpeg = jpegs.flat_jpeg(50, 40, ((2, 2), (2, 2), (2, 2)))
    with pytest.raises(ValueError, match="10 blocks"):
        whole(jpeg, 40, 50)


@pytest.mark.parametrize("count", [2, 4])
def test_two_and_four_components(count: int) -> None:
    jpeg = jpegs.flat_jpeg(50, 40, ((1, 1),) * count, extra=jpegs.adobe_marker(0) if count == 4 else b"")
    if count == 2:
        with pytest.raises(ValueError, match="libjpeg: "):
            whole(jpeg, 40, 50)
    else:
        assert apart(whole(jpeg, 40, 50), pillow(jpeg)).max() <= ROUNDING


JFIF = jpegs.marker(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
NEWER_JFIF = jpegs.marker(0xE0, b"JFIF\0\2\1\0\0\1\0\1\0\0")
SHORT_JFIF = jpegs.marker(0xE0, b"JFIF\0\1\1")


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "Cb larger than Cr"])
def test_colours_follow_markers_and_numbers(kind: str) -> None:
    markers = [b"", JFIF, NEWER_JFIF, SHORT_JFIF, *(jpegs.adobe_marker(transform) for transform in range(3))]
    markers.append(JFIF + jpegs.adobe_marker(0))
    for extra, ids in itertools.product(markers, [b"\1\2\3", b"RGB", b"\0\1\2", b"\1\1\1", b"rgb"]):
        jpeg = jpegs.flat_jpeg(50, 40, jpegs.FACTORS[kind], ids=ids, extra=extra)
        assert apart(whole(jpeg, 40, 50), pillow(jpeg)).max() <= ROUNDING, (extra, ids)


def test_a_row_of_two_chroma_samples_is_repeated_as_libjpeg_does() -> None:
    for kind, width in itertools.product(["4:2:0", "4:2:2", "4:4:0"], range(1, 9)):
        for height in range(1, 7):
            jpeg = jpegs.sample(kind, width, height)
            assert apart(whole(jpeg, height, width), pillow(jpeg)).max() <= ROUNDING, (kind, width, height)


def test_a_table_with_symbols_that_8_bits_never_use() -> None:
    jpeg = jpegs.sample("4:2:0", 90, 70)
    full = pillow(jpeg)
    beside = jpegs.marker(0xC4, b"\1" + bytes([1] + [0] * 15) + b"\x0d")
    assert apart(whole(jpeg[:2] + beside + jpeg[2:], 70, 90), full).max() <= ROUNDING
    own = jpegs.marker(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12)))
    larger = jpegs.marker(0xC4, b"\0" + bytes([0, 0, 0, 13] + [0] * 12) + bytes([*range(12), 14]))
    assert own in jpeg
    assert apart(whole(jpeg.replace(own, larger), 70, 90), full).max() <= ROUNDING


def photograph(size: int, seed: int) -> Image.Image:
    """Smooth, with edges in saturated colours."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def encode(image: Image.Image, subsampling: str = "4:2:0") -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=subsampling)
    return file.getvalue()


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2"])
def test_small_pictures(subsampling: str) -> None:
    # Chroma is upsampled as libjpeg does it: what is left is rounding and colours that RGB clips.
    for seed, size in itertools.product(range(3), range(5, 24)):
        jpeg = encode(photograph(size, seed), subsampling)
        full = pillow(jpeg)
        for side in {size, 224, size // 2, size * 2 // 3}:
            got = native.decode_crop(jpeg, (0, 0, size, size), False, (side, side))
            assert apart(got, resized(full, (side, side))).mean() <= 1.5, (size, side)


@pytest.mark.parametrize("colour", [(40, 140, 110), (200, 90, 120)])
def test_chroma_along_the_border_is_repeated_beyond_it(colour: tuple[int, int, int]) -> None:
    pixels = np.full((32, 48, 3), 115, np.uint8)
    pixels[:2] = pixels[-2:] = pixels[:, :2] = pixels[:, -2:] = colour
    for subsampling in ("4:2:0", "4:2:2"):
        jpeg = encode(Image.fromarray(pixels), subsampling)
        for size in [(8, 13), (9, 12), (10, 15), (12, 18)]:
            got = native.decode_crop(jpeg, (0, 0, 32, 48), False, size)
            assert apart(got, resized(pillow(jpeg), size)).max() <= ROUNDING, (subsampling, size)


@pytest.mark.parametrize("size", [23, 128, 512])
def test_dithered_colour_differs_by_what_rgb_clips(size: int) -> None:
    rng = np.random.default_rng(size)
    dithered = np.where(np.asarray(photograph(size, 1)) > rng.integers(0, 256, (size, size, 3)), 255, 0)
    jpeg = encode(Image.fromarray(dithered.astype(np.uint8)))
    full = pillow(jpeg)
    assert apart(whole(jpeg, size, size), full).max() <= ROUNDING
    for side in (size // 2, 224):
        got = native.decode_crop(jpeg, (0, 0, size, size), False, (side, side))
        assert apart(got, resized(full, (side, side))).mean() <= 7.5, side
