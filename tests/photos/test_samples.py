"""Depths, planes, signs, inversions and palettes, against a second decoder: right, or refused with the reason."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from fasttrain.photos.normalize import BrokenPhoto, decode

tifffile = pytest.importorskip("tifffile", reason="tifffile isn't installed")

DOWN, ACROSS = np.mgrid[0:48, 0:64]
COLORS = np.stack([ACROSS * 4, DOWN * 5, (ACROSS + 2 * DOWN) % 160], -1).astype(np.uint8)
GREY = COLORS[..., 0]


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    order = options.pop("byteorder", "<")
    with tifffile.TiffWriter(file, byteorder=order) as writer:
        writer.write(pixels, **options)
    return file.getvalue()


def stored(data: bytes) -> np.ndarray:
    photo = decode(data, max_size=4000)
    return np.frombuffer(photo.pixels, np.uint8).reshape(photo.height, photo.width, 3).astype(int)


@pytest.mark.parametrize("kind", ["rgb", "minisblack", "miniswhite"])
def test_tiffs_are_right_or_refused(kind) -> None:
    right, refused = 0, set()
    choices = (np.uint8, np.uint16), ("contig", "separate"), (None, "lzw"), "<>", (None, (16, 16))
    for dtype, planes, codec, order, tile in itertools.product(*choices):
        if kind != "rgb" and planes == "separate":
            continue
        pixels = (COLORS if kind == "rgb" else GREY).astype(dtype) * dtype(257 if dtype is np.uint16 else 1)
        given = np.moveaxis(pixels, -1, 0) if planes == "separate" else pixels
        options = {"planarconfig": planes} if kind == "rgb" else {}
        data = tiff(given, photometric=kind, compression=codec, byteorder=order, tile=tile, **options)
        expected = tifffile.imread(io.BytesIO(data))
        expected = np.moveaxis(expected, 0, -1) if planes == "separate" else expected
        expected = (expected // (257 if dtype is np.uint16 else 1)).astype(int)
        expected = 255 - expected if kind == "miniswhite" else expected
        expected = expected if kind == "rgb" else np.repeat(expected[..., None], 3, 2)
        try:
            assert np.abs(stored(data) - expected).max() <= 1, (kind, dtype, planes, codec, order, tile)
            right += 1
        except BrokenPhoto as error:
            refused.add((dtype.__name__, planes, order, error.reason))
    assert right >= 12
    assert all(dtype == "uint16" for dtype, *_ in refused), refused


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (GREY.astype(np.int8), "signed"),
        (GREY.astype(np.int16), "signed"),
        (GREY.astype(np.uint32), "32-bit"),
        (GREY.astype(np.float32), "floating"),
        (COLORS.astype(np.float32), "floating"),
        (COLORS.astype(np.float16), "floating"),
    ],
    ids=str,
)
def test_samples_of_unknown_range_are_refused(pixels, word) -> None:
    with pytest.raises(BrokenPhoto, match=word):
        decode(tiff(pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack"), max_size=100)


def test_grey_planes_with_alpha_are_refused() -> None:
    data = tiff(np.stack([GREY, 255 - GREY]), photometric="minisblack", planarconfig="separate", compression="lzw",
                extrasamples=["unassalpha"])  # fmt: skip
    with pytest.raises(BrokenPhoto, match="planes"):
        decode(data, max_size=100)


def test_twelve_bits_fill_the_range() -> None:
    samples = (GREY.astype(np.uint16) * 16)[:, :64]
    packed = np.stack(
        [samples[:, ::2] >> 4, (samples[:, ::2] & 15) << 4 | samples[:, 1::2] >> 8, samples[:, 1::2] & 255]
    )
    rows = np.moveaxis(packed, 0, -1).astype(np.uint8).tobytes()
    data = tiff(GREY, photometric="minisblack")
    data = data[: data.rindex(GREY.tobytes())] + rows
    data = data.replace(np.uint32(GREY.size).tobytes(), np.uint32(len(rows)).tobytes())
    data = data.replace(b"\2\1\3\0\1\0\0\0\x08\0", b"\2\1\3\0\1\0\0\0\x0c\0")
    assert np.abs(stored(data)[..., 0] - GREY).max() <= 1


def test_palettes_of_eight_bits_are_bright() -> None:
    colors = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])
    expected = np.moveaxis(colors[:, GREY], 0, -1)
    for scale in (1, 257):
        data = tiff(GREY, photometric="palette", colormap=(colors * scale).astype(np.uint16))
        assert np.abs(stored(data) - expected).max() <= 1


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_the_transparent_grey_of_a_png_is_white(bits) -> None:
    most = (1 << bits) - 1
    samples = np.repeat(np.linspace(0, most, 4).astype(int)[None], 4, 0)
    if bits == 16:
        image, options = Image.fromarray(samples.astype(np.uint16)), {}
    else:
        image, options = Image.fromarray((samples * (255 // most)).astype(np.uint8)), {"bits": bits}
    file = io.BytesIO()
    image.save(file, "PNG", transparency=int(samples[0, 0]), **options)
    found = stored(file.getvalue())
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1, 0] in range(80, 90)
