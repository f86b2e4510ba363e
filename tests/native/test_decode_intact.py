"""`decode_intact_crop`: the pixels of `decode_crop`, for the files that `cut` takes, in one pass."""

from __future__ import annotations

import io
import random
from typing import Any

import jpegs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

native = pytest.importorskip("fasttrain._native")

Box = tuple[int, int, int, int]  # top, left, height, width
PILLOW: list[dict[str, Any]] = [
    {"subsampling": subsampling, **more}
    for subsampling in ("4:2:0", "4:2:2", "4:4:4")
    for more in (
        {},
        {"optimize": True},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_blocks": 7},
        {"restart_marker_rows": 1},
        {"quality": 100},
    )
]


def in_two_passes(data: bytes, box: Box, size: tuple[int, int]) -> NDArray[np.uint8] | str:
    """Return the pixels, or why the file is refused."""
    try:
        native.cut(data, "none", False)
        return native.decode_crop(data, box, False, size)
    except ValueError as error:
        return str(error)


def in_one_pass(data: bytes, box: Box, size: tuple[int, int]) -> NDArray[np.uint8] | str:
    try:
        return native.decode_intact_crop(data, box, False, size)
    except ValueError as error:
        return str(error)


def refusal(data: bytes, box: Box, size: tuple[int, int] = (24, 16)) -> str | None:
    """Compare both ways, and return why the file is refused, None where it isn't."""
    expected, got = in_two_passes(data, box, size), in_one_pass(data, box, size)
    if isinstance(expected, str):
        assert got == expected
        return expected
    assert not isinstance(got, str), got
    assert np.array_equal(got, expected)
    return None


def encoded(seed: int, width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """Encode a smooth picture with some noise, so that blocks have few coefficients and many."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    noise = rng.integers(-40, 41, smooth.shape) * (np.arange(width) % 64 < 24)[None, :, None]
    file = io.BytesIO()
    image = Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).convert(mode)
    image.save(file, "JPEG", **options)
    return file.getvalue()


def boxes(width: int, height: int) -> list[Box]:
    """Return the picture, its centre, its first and its last pixels."""
    return [
        (0, 0, height, width),
        (height // 4, width // 5, height // 2, width // 2),
        (0, 0, 9, 9),
        (height - 5, width - 6, 5, 6),
    ]


@pytest.mark.parametrize("options", PILLOW, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_of_decode_crop(mode: str, options: dict[str, Any]) -> None:
    options = options if mode == "RGB" else {key: each for key, each in options.items() if key != "subsampling"}
    for width, height in ((163, 119), (64, 48)):
        data = encoded(1, width, height, mode, **options)
        for box in boxes(width, height):
            for size in ((16, 16), (90, 70)):
                assert refusal(data, box, size) is None


def test_a_large_picture_is_reduced_alike() -> None:
    data = encoded(2, 900, 700)
    for box in boxes(900, 700):
        assert refusal(data, box, (32, 32)) is None


@pytest.mark.parametrize("kind", jpegs.FACTORS)
@pytest.mark.parametrize("restart", [0, 1, 3])
def test_all_sampling_factors(kind: str, restart: int) -> None:
    data = jpegs.sample(kind, 61, 45, restart)
    for box in boxes(61, 45):
        refusal(data, box)


@pytest.mark.parametrize("level", ["plain", "avx2"])
def test_any_instructions(level: str) -> None:
    data = encoded(3, 200, 150)
    expected = in_one_pass(data, (40, 50, 60, 70), (32, 32))
    try:
        before = native.set_simd(level)
    except ValueError:
        pytest.skip("not on this machine")
    try:
        got = in_one_pass(data, (40, 50, 60, 70), (32, 32))
    finally:
        native.set_simd(before)
    assert np.array_equal(got, expected)


def test_axes_are_those_of_the_picture_at_hand() -> None:
    """A thread keeps the last picture's weights, which another size, box or sampling must not get."""
    some = [encoded(4, 160, 120), encoded(4, 120, 160), encoded(4, 160, 120, subsampling="4:4:4")]
    some.append(encoded(4, 160, 120, "L"))
    calls = [
        (data, box, size) for data in some for box in ((8, 8, 96, 96), (9, 8, 96, 95)) for size in ((32, 32), (40, 32))
    ]
    first = [in_one_pass(*call) for call in calls]
    for number in random.Random(0).choices(range(len(calls)), k=200):
        assert np.array_equal(in_one_pass(*calls[number]), first[number])


@pytest.mark.parametrize("options", PILLOW[:7], ids=str)
def test_each_kind_of_damage_is_refused_as_cut_refuses_it(options: dict[str, Any]) -> None:
    data = encoded(5, 163, 119, **options)
    scan = data.index(b"\xff\xda")
    below = len(data) - (len(data) - scan) // 8
    damaged = {
        "no EOI": data[:-2],
        "truncated": data[:below],
        "truncated, with an EOI": data[:below] + b"\xff\xd9",
        "bytes before EOI": data[:-2] + b"\x12\x34\x56" + b"\xff\xd9",
        "another marker in place of EOI": data[:-2] + b"\xff\xd5",
        "bytes missing below the crop": data[:below] + data[below + 40 :],
        "zeros below the crop": data[:below] + bytes(24) + data[below + 24 :],
        "bytes missing above the crop": data[: scan + 60] + data[scan + 90 :],
        "a restart marker below the crop": data[:below] + b"\xff\xd3" + data[below + 2 :],
        "another table": data[:scan].replace(b"\xff\xc4", b"\xff\xc5", 1) + data[scan:],
        "a quantisation of 65": data[: scan - 1] + b"\x41" + data[scan:],
    }
    box = (20, 40, 48, 64)
    refused = {name for name, each in damaged.items() if refusal(each, box) is not None}
    assert {"no EOI", "truncated", "truncated, with an EOI", "bytes missing above the crop", "another table"} <= refused
    assert refusal(data + b"stray bytes after EOI", box) is None


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("block", [(0, 0), (3, 3), (2, 4), (5, 7)], ids=str)
def test_samples_beyond_8_bits_are_refused_in_the_crop_and_outside(mode: str, block: tuple[int, int]) -> None:
    pixels = np.full((48, 64), 128, np.uint8)
    pixels[8 * block[0] : 8 * block[0] + 8, 8 * block[1] : 8 * block[1] + 8] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=100, subsampling="4:2:0")
    data = bytearray(file.getvalue())
    data[data.index(b"\xff\xdb") + 5] = 2  # the DC coefficient is as if white were 382
    box = (16, 16, 16, 24)
    assert refusal(bytes(data), box) == "corrupt or unsupported: DCT coefficient out of range"
    assert refusal(file.getvalue(), box) is None


def test_damaged_files_are_refused_as_cut_refuses_them() -> None:
    rng = random.Random(6)
    sources = [encoded(seed, 120, 90, **options) for seed, options in enumerate(PILLOW)]
    sources += [
        encoded(9, 75, 100, "L"),
        *(jpegs.sample(kind, 61, 45, restart) for kind in ("4:2:0", "4:4:4") for restart in (0, 2)),
    ]
    refused = 0
    for turn in range(3000):
        data = bytearray(sources[turn % len(sources)])
        at = rng.randrange(len(data))
        what = rng.random()
        if what < 0.15:
            del data[at:]
        elif what < 0.3:
            del data[at : at + rng.randint(1, 9)]
        elif what < 0.4:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        else:
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        refused += refusal(bytes(data), (10, 12, 30, 28)) is not None
    assert 1000 < refused < 2990
