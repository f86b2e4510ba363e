"""The decode core against a plain one: Pillow decodes everything, torchvision resizes the crop (antialiased, uint8).

Each comparison is made with both filters, bilinear and bicubic.

The bounds. Ours and torchvision's resize each round to 8 bits twice, and our sums are within 0.02 grey levels of exact
ones, so at full DCT size without chroma two results differ by at most 2. Chroma differs more: ours is upsampled and
resized in one step, without rounding and clipping to RGB at the photograph's size first, and sees nothing outside of
the crop. Where a crop is at least four times the output, blocks are first averaged 2 x 2 or 4 x 4, which widens the
filter a little.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import jpegs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tests.support.old_torch import OLD_TORCH

native = pytest.importorskip("fasttrain._native")

Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, left, height, width


def picture(seed: int, height: int, width: int) -> Image.Image:
    """Smooth colours, edges and fine texture, about as a photograph has them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    bands = []
    for _ in range(3):
        fx, fy, ex, ey = rng.uniform(0.005, 0.05, 4)
        smooth = 60 * np.sin(fx * x + fy * y) + 40 * np.sign(np.sin(ex * x - ey * y + 1))
        bands.append(128 + smooth + 8 * np.sin(0.9 * x) * np.cos(0.7 * y))
    pixels = np.stack(bands, -1) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def pixels(jpeg: bytes) -> Picture:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def reference(full: Picture, box: Box, flip: bool, size: tuple[int, int], bicubic: bool = False) -> Picture:
    top, left, height, width = box
    crop = torch.from_numpy(full[top : top + height, left : left + width].copy()).permute(2, 0, 1)
    filter = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    resized = F.resize(crop, list(size), filter, antialias=True)
    return (resized.flip(-1) if flip else resized).permute(1, 2, 0).numpy()


def difference(a: Picture, b: Picture) -> Picture:
    return np.abs(a.astype(int) - b)


def boxes(height: int, width: int, count: int, seed: int) -> Iterator[Box]:
    """Random ones, then the whole, single pixels in the corners, and strips along each border."""
    rng = random.Random(seed)
    for _ in range(count):
        h, w = rng.randint(1, height), rng.randint(1, width)
        yield rng.randint(0, height - h), rng.randint(0, width - w), h, w
    yield from [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1), (0, width - 1, 1, 1)]
    yield from [(0, 0, height, 1), (0, width - 1, height, 1), (0, 0, 1, width), (height - 1, 0, 1, width)]


BOTH_FILTERS = pytest.mark.parametrize("bicubic", [False, True], ids=["bilinear", "bicubic"])
SAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
# Every path: our decoder with a restart marker a MCU, a row, none; libjpeg's for progressive.
STORED: dict[str, dict[str, object]] = {
    "mcu": {"restart_marker_blocks": 1, "optimize": True},
    "some": {"restart_marker_blocks": 7},
    "row": {"restart_marker_rows": 1},
    "plain": {},
    "progressive": {"progressive": True},
}


@BOTH_FILTERS
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_random_crops_match_the_reference(stored: str, sampling: str, bicubic: bool) -> None:
    rng = random.Random(sampling + stored)
    means, most = [], 0
    for seed, (height, width) in enumerate([(131, 197), (256, 192), (17, 301)]):
        jpeg = encode(picture(seed, height, width), quality=92, subsampling=SAMPLING[sampling], **STORED[stored])
        full = pixels(jpeg)
        for box in boxes(height, width, 30, seed):
            size = (rng.randint(40, 90), rng.randint(60, 120))  # below 4 to 1: full DCT size
            flip = rng.random() < 0.5
            got = native.decode_crop(jpeg, box, flip, size, bicubic=bicubic)
            apart = difference(got, reference(full, box, flip, size, bicubic))
            means.append(apart.mean())
            most = max(most, int(apart.max()))
    chroma = stored != "progressive"
    assert np.mean(means) < (0.6 if chroma else 0.2 if OLD_TORCH else 0.1)
    assert max(means) < (1.2 if chroma else 0.5)
    assert most <= (20 if chroma else 2)


@pytest.mark.parametrize("level", ["plain", "avx2", "avx512"])
@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_grey_at_its_own_size_is_libjpegs_bit_for_bit(level: str, quality: int) -> None:
    try:
        before = native.set_simd(level)
    except ValueError:
        pytest.skip("not on this machine")
    try:
        for seed, stored in enumerate(STORED.values()):
            jpeg = encode(picture(seed, 123, 91).convert("L"), quality=quality, **stored)
            full = pixels(jpeg)
            for top, left, h, w in boxes(123, 91, 20, quality):
                got = native.decode_crop(jpeg, (top, left, h, w), False, (h, w))
                assert (native.decode_crop(jpeg, (top, left, h, w), False, (h, w), bicubic=True) == got).all()
                np.testing.assert_array_equal(got, full[top : top + h, left : left + w])
    finally:
        native.set_simd(before)


@BOTH_FILTERS
def test_grey_resized_is_within_two_levels(bicubic: bool) -> None:
    jpeg = encode(picture(5, 240, 320).convert("L"), quality=90, restart_marker_blocks=1)
    full = pixels(jpeg)
    for box in boxes(240, 320, 150, 0):
        for size in [(224, 224), (96, 100)]:
            got = native.decode_crop(jpeg, box, False, size, bicubic=bicubic)
            assert difference(got, reference(full, box, False, size, bicubic)).max() <= 2


@pytest.mark.parametrize("block", [4, 2])
@pytest.mark.parametrize("sampling", SAMPLING)
@BOTH_FILTERS
@pytest.mark.slow
def test_reduced_blocks_stay_close(block: int, sampling: str, bicubic: bool) -> None:
    jpeg = encode(picture(1, 1003, 1201), quality=90, subsampling=SAMPLING[sampling], restart_marker_blocks=1)
    full = pixels(jpeg)
    rng = random.Random(block)
    for _ in range(12):
        ratio = rng.uniform(4, 7.9) if block == 4 else rng.uniform(8, 15)
        height, width = rng.randint(500, 1003), rng.randint(500, 1201)
        box = (rng.randint(0, 1003 - height), rng.randint(0, 1201 - width), height, width)
        size = (int(height / ratio), int(width / ratio))
        got = native.decode_crop(jpeg, box, False, size, bicubic=bicubic)
        apart = difference(got, reference(full, box, False, size, bicubic))
        assert apart.mean() < 1.0
        assert apart.max() <= 16


@pytest.mark.parametrize("kind", [k for k in jpegs.FACTORS if "cmyk" not in k and "ycck" not in k])
@BOTH_FILTERS
def test_wider_instructions_change_nothing(kind: str, bicubic: bool) -> None:
    jpeg = jpegs.sample(kind, 150, 90, 1)
    widest = native.set_simd("plain")

    def decoded() -> list[Picture]:
        return [native.decode_crop(jpeg, box, True, (31, 45), bicubic=bicubic) for box in boxes(90, 150, 10, 3)]

    try:
        plain = decoded()
        for level in dict.fromkeys(["plain" if widest == "plain" else "avx2", widest]):
            native.set_simd(level)
            for got, expected in zip(decoded(), plain, strict=True):
                np.testing.assert_array_equal(got, expected)
    finally:
        native.set_simd(widest)


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_a_flat_picture_stays_flat(level: int) -> None:
    flat = np.full((600, 900, 3), level, np.uint8)
    for box in boxes(600, 900, 10, level):
        for size in [(2, 3), (61, 45), (700, 800)]:
            assert (native.decode_crop(flat, box, False, size, raw_size=(600, 900), bicubic=True) == level).all()


@pytest.mark.parametrize(("dark", "bright", "least", "most"), [(40, 200, 30, 210), (0, 255, 0, 255)])
def test_bicubic_overshoots_at_an_edge_and_is_clamped(dark: int, bright: int, least: int, most: int) -> None:
    edge = np.full((64, 64, 3), dark, np.uint8)
    edge[:, 32:] = bright
    got = native.decode_crop(edge, (0, 0, 64, 64), False, (64, 160), raw_size=(64, 64), bicubic=True)
    assert (got.min(), got.max()) == (least, most)
    assert difference(got, reference(edge, (0, 0, 64, 64), False, (64, 160), True)).max() <= 2


@pytest.mark.parametrize("sampling", SAMPLING)
def test_nothing_outside_of_the_box_is_seen(sampling: str) -> None:
    canvas = np.full((96, 96, 3), 255, np.uint8)
    canvas[32:64, 32:64] = (0, 0, 90)
    jpeg = encode(Image.fromarray(canvas), quality=95, subsampling=SAMPLING[sampling], restart_marker_blocks=1)
    inside = pixels(jpeg)[40, 40].astype(int)
    got = native.decode_crop(jpeg, (32, 32, 32, 32), False, (75, 20))
    assert difference(got, inside).max() <= 2


@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_a_flip_mirrors(kind: str) -> None:
    jpeg = jpegs.sample(kind, 70, 50, 1)
    plain = native.decode_crop(jpeg, (3, 5, 40, 50), False, (33, 29))
    np.testing.assert_array_equal(native.decode_crop(jpeg, (3, 5, 40, 50), True, (33, 29)), plain[:, ::-1])


def test_rare_colours() -> None:
    rgb = picture(2, 120, 150)
    adobe_rgb = encode(rgb, quality=95, keep_rgb=True, restart_marker_blocks=1)
    cmyk = encode(rgb.convert("CMYK"), quality=95)
    for jpeg in (adobe_rgb, cmyk):
        apart = difference(
            native.decode_crop(jpeg, (10, 9, 100, 99), False, (60, 70)),
            reference(pixels(jpeg), (10, 9, 100, 99), False, (60, 70)),
        )
        assert apart.max() <= 3


@BOTH_FILTERS
def test_raw_pixels(bicubic: bool) -> None:
    full = np.asarray(picture(3, 77, 130))
    for box in boxes(77, 130, 60, 1):
        got = native.decode_crop(full, box, True, (40, 64), raw_size=(77, 130), bicubic=bicubic)
        assert difference(got, reference(full, box, True, (40, 64), bicubic)).max() <= 2


@pytest.mark.parametrize("stored", STORED)
def test_truncated_files_are_refused(stored: str) -> None:
    jpeg = encode(picture(4, 80, 100), quality=90, **STORED[stored])
    for length in range(0, int(len(jpeg) * 0.95), 61):
        with pytest.raises(ValueError, match=r"\w+"):
            native.decode_crop(jpeg[:length], (0, 0, 80, 100), False, (32, 32))


@pytest.mark.parametrize("level", ["plain", "avx2"])
def test_a_missing_end_is_no_error_whatever_the_length(level: str) -> None:
    jpeg = encode(picture(4, 40, 40), quality=90)[:-2]
    expected = native.decode_crop(jpeg + b"\xff\xd9", (0, 0, 40, 40), False, (32, 32))
    try:
        before = native.set_simd(level)
    except ValueError:
        pytest.skip("not on this machine")
    try:
        for shift in range(64):
            shifted = jpeg[:2] + jpegs.marker(0xFE, bytes(shift)) + jpeg[2:]
            for end in (b"", b"\xff"):
                got = native.decode_crop(shifted + end, (0, 0, 40, 40), False, (32, 32))
                np.testing.assert_array_equal(got, expected)
    finally:
        native.set_simd(before)


def test_changed_bytes_raise_or_decode() -> None:
    rng = random.Random(0)
    refused = 0
    for stored in STORED.values():
        jpeg = encode(picture(6, 64, 64), quality=85, **stored)
        for _ in range(150):
            broken = bytearray(jpeg)
            for _ in range(rng.choice([1, 1, 3, 20])):
                broken[rng.randrange(2, len(broken))] = rng.randrange(256)
            try:
                got = native.decode_crop(broken, (5, 6, 50, 51), False, (24, 24))
            except ValueError:
                refused += 1
            else:
                assert got.shape == (24, 24, 3)
    assert refused > 100


def test_each_restart_interval_is_checked() -> None:
    jpeg = encode(picture(7, 48, 64).convert("L"), quality=85, restart_marker_blocks=1)
    marks = [i for i in range(len(jpeg) - 1) if jpeg[i] == 0xFF and 0xD0 <= jpeg[i + 1] <= 0xD7]
    assert len(marks) == 6 * 8 - 1
    for at in marks:
        wrong_order = jpeg[: at + 1] + bytes([0xD0 | (jpeg[at + 1] + 1) % 8]) + jpeg[at + 2 :]
        lost = jpeg[:at] + jpeg[at + 2 :]
        a_byte_less = jpeg[: at - 1] + jpeg[at:]
        a_byte_more = jpeg[:at] + b"\x11" + jpeg[at:]
        for broken in (wrong_order, lost, a_byte_less, a_byte_more):
            with pytest.raises(ValueError, match=r"corrupt|truncated"):
                native.decode_crop(broken, (0, 0, 48, 64), False, (24, 24))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 65, 5), (0, 60, 5, 5), (0, 0, 0, 5), (2**30, 0, 2**30, 5)])
def test_a_box_outside_is_refused(box: Box) -> None:
    for jpeg in (encode(picture(8, 64, 64)), encode(picture(8, 64, 64), progressive=True)):
        with pytest.raises(ValueError, match="box outside"):
            native.decode_crop(jpeg, box, False, (24, 24))


def one_grey_block(dc_codes: int) -> bytes:
    """Return an 8 x 8 grey JPEG whose DC table has so many codes of one bit; it uses only the first, 0."""
    quantization = b"\xff\xdb\x00\x43\x00" + bytes([1] * 64)
    frame = b"\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00"
    dc = bytes([0x00, dc_codes, *[0] * 15, *range(dc_codes)])
    ac = bytes([0x10, 1, *[0] * 15, 0])
    tables = b"".join(b"\xff\xc4" + (len(each) + 2).to_bytes(2, "big") + each for each in (dc, ac))
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x3f"
    return b"\xff\xd8" + quantization + frame + tables + scan + b"\xff\xd9"


def test_a_huffman_code_of_all_ones_is_refused_as_libjpeg_refuses_it() -> None:
    good, bad = one_grey_block(1), one_grey_block(2)
    assert (native.decode_crop(good, (0, 0, 8, 8), False, (8, 8)) == 128).all()
    assert (pixels(good) == 128).all()
    with pytest.raises(ValueError, match="Bogus Huffman table"):
        native.decode_crop(bad, (0, 0, 8, 8), False, (8, 8))
    with pytest.raises(OSError, match="broken data stream"):
        pixels(bad)


def test_sizes_that_lie_are_refused() -> None:
    with pytest.raises(ValueError, match="raw pixels"):
        native.decode_crop(bytes(299), (0, 0, 10, 10), False, (8, 8), raw_size=(10, 10))
    # A header that promises 65500 x 6000 pixels must fail before memory for them is asked for.
    jpeg = bytearray(encode(picture(9, 64, 64), restart_marker_blocks=1))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = (6000).to_bytes(2, "big") + (65500).to_bytes(2, "big")
    with pytest.raises(ValueError, match="truncated"):
        native.decode_crop(jpeg, (0, 0, 6000, 65500), False, (8, 8))
