"""The cut changes how coefficients are stored and nothing else, and refuses what it can't read whole."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys

import jpegs
import numpy as np
import pytest
from PIL import Image, ImageOps

from fasttrain.errors import UserError
from fasttrain.photos.cut import cut_jpeg, jpeg_info, native_available, slice_jpeg

native = pytest.importorskip("fasttrain._native")

SIZES = [(1, 1), (8, 8), (64, 48), (37, 29), (17, 65), (130, 3)]
INTERVALS = ["mcu", "row", "none"]


def mcus(jpeg: bytes) -> tuple[int, int]:
    """(MCUs per row, MCU rows) of one interleaved scan."""
    sof = next(body for code, body in jpegs.segments(jpeg) if code in (0xC0, 0xC1))
    height, width, count = struct.unpack(">HHB", sof[1:6])
    factors = [sof[7 + 3 * i] for i in range(count)]
    h, v = (1, 1) if count == 1 else (max(f >> 4 for f in factors), max(f & 15 for f in factors))
    return -(-width // (8 * h)), -(-height // (8 * v))


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_pixels_are_bit_identical(kind: str, interval: str, optimize: bool) -> None:
    for width, height in SIZES:
        for restart, interleaved in [(0, True), (1, True), (3, True), (0, False), (2, False)]:
            source = jpegs.sample(kind, width, height, restart, interleaved)
            result = native.cut(source, interval, optimize)
            np.testing.assert_array_equal(jpegs.decode(result), jpegs.decode(source))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("mode", "subsampling"), [("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2), ("CMYK", 0)])
def test_pillows_files_progressive_ones_too(mode: str, subsampling: int, progressive: bool) -> None:
    for width, height in SIZES:
        source = jpegs.pillow_jpeg(mode, width, height, subsampling, progressive)
        assert jpeg_info(source)["progressive"] == progressive
        result = cut_jpeg(source)
        assert not jpeg_info(result)["progressive"]
        np.testing.assert_array_equal(jpegs.decode(result), jpegs.decode(source))


@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_restart_markers_stand_after_every_mcu_or_row_or_nowhere(kind: str) -> None:
    for interleaved in (True, False):
        source = jpegs.sample(kind, 150, 90, 5, interleaved)
        for interval in INTERVALS:
            result = native.cut(source, interval, True)
            per_row, rows = mcus(result)
            every = {"mcu": 1, "row": per_row, "none": 0}[interval]
            assert jpeg_info(result)["restart_interval"] == every
            count = (per_row * rows - 1) // every if every else 0
            assert jpegs.scan_markers(result) == [0xD0 + i % 8 for i in range(count)] + [0xD9]
            assert result.endswith(b"\xff\xd9")


def test_factors_are_reduced_to_their_ratios() -> None:
    grey = native.cut(jpegs.sample("grey 2x2", 40, 24), "mcu", True)
    sof = next(body for code, body in jpegs.segments(grey) if code == 0xC0)
    assert sof[7] == 0x11
    assert jpeg_info(grey)["sampling"] == "grey"
    wide = native.cut(jpegs.sample("4:4:4 as 2x1", 40, 24), "mcu", True)
    assert mcus(wide) == (5, 3)
    unwritable = jpegs.random_jpeg(40, 24, ((2, 2), (2, 2), (2, 2)), interleaved=False)
    np.testing.assert_array_equal(jpegs.decode(native.cut(unwritable, "mcu", True)), jpegs.decode(unwritable))


def test_other_markers_go_and_jfif_and_adobe_stay() -> None:
    extra = jpegs.marker(0xE1, b"Exif\0\0secret") + jpegs.marker(0xFE, b"comment") + jpegs.marker(0xE2, b"ICC_PROFILE")
    grey = native.cut(jpegs.random_jpeg(20, 20, jpegs.FACTORS["4:2:0"], extra=extra), "mcu", True)
    assert {code for code, _ in jpegs.segments(grey)} <= {0xE0, 0xDB, 0xC0, 0xC4, 0xDD, 0xDA}
    for factors, transform in [("4:4:4", 0), ("4:4:4", 1), ("cmyk", 0), ("ycck 4:2:0", 2)]:
        source = jpegs.random_jpeg(20, 20, jpegs.FACTORS[factors], adobe=transform, extra=extra)
        result = native.cut(source, "mcu", True)
        codes = {code for code, _ in jpegs.segments(result)}
        assert codes & {0xE0, 0xEE} == ({0xE0} if transform == 1 else {0xEE})
        assert not codes & {0xE1, 0xE2, 0xFE}
        np.testing.assert_array_equal(jpegs.decode(result), jpegs.decode(source))


def test_cmyk_without_adobe_gets_no_adobe() -> None:
    result = native.cut(jpegs.random_jpeg(20, 20, jpegs.FACTORS["cmyk"]), "mcu", True)
    assert jpeg_info(result)["adobe_transform"] is None


def test_optimal_tables_are_smaller() -> None:
    source = jpegs.pillow_jpeg("RGB", 200, 150)
    assert len(native.cut(source, "none", True)) < len(native.cut(source, "none", False))


def test_coefficients_without_a_huffman_code_are_an_error() -> None:
    for largest, fits in [(1023, True), (1024, False)]:
        source = jpegs.random_jpeg(64, 64, jpegs.FACTORS["grey"], largest=largest)
        for optimize in (True, False):
            if fits:
                np.testing.assert_array_equal(jpegs.decode(native.cut(source, "mcu", optimize)), jpegs.decode(source))
            else:
                with pytest.raises(ValueError, match="coefficient out of range"):
                    native.cut(source, "mcu", optimize)


def test_the_same_bytes_again() -> None:
    for kind in jpegs.FACTORS:
        once = native.cut(jpegs.sample(kind, 37, 29), "mcu", True)
        assert native.cut(once, "mcu", True) == once
        assert native.cut(memoryview(bytearray(once)), "mcu", True) == once


@pytest.mark.skipif(not shutil.which("jpegtran"), reason="needs libjpeg-turbo-progs' jpegtran")
def test_arithmetic_coding_becomes_huffman() -> None:
    source = jpegs.pillow_jpeg("RGB", 70, 50)
    arithmetic = subprocess.run(["jpegtran", "-arithmetic"], input=source, capture_output=True, check=True).stdout
    assert native.cut(arithmetic, "mcu", True) == native.cut(source, "mcu", True)


# The IDCT's two passes and fancy upsampling round differently along x and y or left and right, so of the
# turned coefficients' pixels only those are exact that need neither.
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "size"), [("grey", (48, 32)), ("4:4:4", (48, 32)), ("4:2:0", (48, 32))])
def test_orientation_is_exif_transpose(kind: str, size: tuple[int, int], orientation: int) -> None:
    source = jpegs.sample(kind, *size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", exif=exif)
    app1 = next(body for code, body in jpegs.segments(file.getvalue()) if code == 0xE1)
    tagged = source[:2] + jpegs.marker(0xE1, app1) + source[2:]
    with Image.open(io.BytesIO(tagged)) as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture)).astype(int)
    found = jpegs.decode(native.cut(tagged, "mcu", True, orientation)).astype(int)
    assert found.shape == wanted.shape
    exact = orientation == 1 or (orientation <= 4 and kind != "4:2:0")
    assert np.abs(found - wanted).max() <= (0 if exact else 3)


@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_orientation_loses_nothing(kind: str) -> None:
    source = native.cut(jpegs.sample(kind, 96, 48), "mcu", True)
    for there, back in [(2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)]:
        turned = native.cut(source, "mcu", True, there)
        assert turned != source
        assert native.cut(turned, "mcu", True, back) == source


def test_orientation_is_refused_where_it_would_not_be_perfect() -> None:
    for orientation, width, height in [
        (2, 50, 64),
        (3, 64, 50),
        (4, 64, 50),
        (6, 64, 50),
        (7, 50, 64),
        (8, 50, 64),
    ]:
        with pytest.raises(ValueError, match=r"^orientation:"):
            native.cut(jpegs.sample("4:2:0", width, height), "mcu", True, orientation)
    for orientation, width, height in [(2, 64, 50), (4, 50, 64), (5, 50, 50), (6, 50, 64), (8, 64, 50)]:
        native.cut(jpegs.sample("4:2:0", width, height), "mcu", True, orientation)
    with pytest.raises(ValueError, match=r"^orientation: 9"):
        native.cut(jpegs.sample("4:2:0", 16, 16), "mcu", True, 9)


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_an_error(progressive: bool) -> None:
    source = jpegs.pillow_jpeg("RGB", 40, 30, 2, progressive)
    for length in range(len(source)):
        with pytest.raises(ValueError, match=r"^(truncated|corrupt|not a JPEG)"):
            native.cut(source[:length], "mcu", True)


def test_progressive_scans_that_are_missing_are_an_error() -> None:
    source = jpegs.pillow_jpeg("RGB", 40, 30, 2, True)
    last_scan = source.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match=r"^truncated: progressive"):
        native.cut(source[:last_scan] + b"\xff\xd9", "mcu", True)


def test_sizes_that_lie_are_refused() -> None:
    source = jpegs.sample("4:2:0", 40, 30)
    at = source.index(struct.pack(">HH", 30, 40))
    for height, width, reason in [(60000, 60000, "^too large"), (20000, 20000, "^truncated: too short")]:
        with pytest.raises(ValueError, match=reason):
            native.cut(source[:at] + struct.pack(">HH", height, width) + source[at + 4 :], "mcu", True)
    with pytest.raises(ValueError, match=r"^too large"):
        jpeg_info(source[:at] + struct.pack(">HH", 60000, 60000) + source[at + 4 :])
    twelve_bits = source[: at - 1] + b"\x0c" + source[at:]
    with pytest.raises(ValueError):
        native.cut(twelve_bits, "mcu", True)


def test_damaged_files_raise_or_give_a_whole_jpeg() -> None:
    rng = np.random.default_rng(7)
    sources = [jpegs.sample(kind, 37, 29, restart) for kind in jpegs.FACTORS for restart in (0, 1)]
    sources += [jpegs.pillow_jpeg("RGB", 60, 40, 2, True), jpegs.pillow_jpeg("CMYK", 60, 40)]
    refused = 0
    for turn in range(6000):
        damaged = bytearray(sources[turn % len(sources)])
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(len(damaged))
            if rng.random() < 0.2:
                del damaged[at : at + rng.integers(1, 40)]
                damaged += b"\xff\xd9"
            else:
                damaged[at] ^= 1 << rng.integers(8)
        try:
            result = native.cut(damaged, "mcu", turn % 3 == 0, int(rng.integers(1, 9)))
        except ValueError:
            refused += 1
        else:
            assert native.cut(result, "mcu", turn % 3 == 0) == result
    assert 1000 < refused < 5900


@pytest.mark.parametrize("kind", jpegs.FACTORS)
def test_info(kind: str) -> None:
    info = jpeg_info(jpegs.sample(kind, 37, 29, 3))
    sampling = {"grey 2x2": "grey", "4:4:4 as 2x1": "4:4:4", "ycck 4:2:0": "cmyk"}.get(kind, kind)
    if kind in jpegs.UNUSUAL:
        sampling = "other"
    assert info == {
        "width": 37,
        "height": 29,
        "components": len(jpegs.FACTORS[kind]),
        "sampling": sampling,
        "progressive": False,
        "restart_interval": 3,
        "adobe_transform": jpegs.ADOBE.get(kind),
    }


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"^interval: 'column'"):
        native.cut(jpegs.sample("grey", 8, 8), "column", True)
    with pytest.raises(TypeError):
        native.cut("text", "mcu", True)
    for garbage in (b"", b"\xff", b"\xff\xd8", b"\x89PNG" * 20):
        with pytest.raises(ValueError):
            cut_jpeg(garbage)
        with pytest.raises(ValueError):
            jpeg_info(garbage)


def test_without_the_module_the_error_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native_available()
    monkeypatch.delattr("fasttrain._native")
    monkeypatch.setitem(sys.modules, "fasttrain._native", None)
    assert not native_available()
    for call in (lambda: cut_jpeg(b""), lambda: slice_jpeg(b"", (0, 0, 1, 1)), lambda: jpeg_info(b"")):
        with pytest.raises(UserError, match=r"apt-get install g\+\+ libjpeg62-turbo-dev"):
            call()
