"""Damaged JPEGs: which share of the picture is intact, and what is stored of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

native = pytest.importorskip("fasttrain._native")

HEIGHT, WIDTH = 480, 640


def make_pixels() -> NDArray[np.uint8]:
    across, down = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    gradients = np.stack([across * 255 // (WIDTH - 1), down * 255 // (HEIGHT - 1), (across + down) % 256], -1)
    return (gradients + np.random.default_rng(1).normal(0, 12, gradients.shape)).clip(0, 255).astype(np.uint8)


PIXELS = make_pixels()


def encode(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", **options)
    return file.getvalue()


BASELINE, PROGRESSIVE, ROWS = encode(), encode(progressive=True), encode(restart_marker_rows=1)
SCAN = BASELINE.index(b"\xff\xda") + 14
MIDDLE = (SCAN + len(BASELINE)) // 2
SCANS = [found.start() for found in re.finditer(rb"\xff\xda", PROGRESSIVE)]
PROGRESSIVE_ROWS = encode(progressive=True, restart_marker_rows=1)


def find_restarts(jpeg: bytes) -> list[int]:
    return [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", jpeg)]


THIRD_RESTART, SIXTH_RESTART = find_restarts(ROWS)[2], find_restarts(ROWS)[5]


def numbered(jpeg: bytes, which: int, number: int) -> bytes:
    """Return `jpeg` with another number in one of its restart markers."""
    at = find_restarts(jpeg)[which]
    return jpeg[: at + 1] + bytes([0xD0 + number]) + jpeg[at + 2 :]


def junk(count: int) -> bytes:
    """Random bytes without FF."""
    return np.random.default_rng(2).integers(0, 255, count, dtype=np.uint8).tobytes()


def pixels(jpeg: bytes) -> NDArray[np.int64]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def truncated_are_shown(monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


# Each with the least and the most that may count as intact.
DAMAGED = {
    "sound": (BASELINE, 1, 1),
    "sound, progressive": (PROGRESSIVE, 1, 1),
    "the last 20 bytes are gone, with EOI": (BASELINE[:-22] + b"\xff\xd9", 0.99, 0.9999),
    "the last 20 bytes are gone, without EOI": (BASELINE[:-22], 0.99, 0.9999),
    "only EOI is gone, padded with zeros": (BASELINE[:-2] + bytes(512), 0.99, 1),
    "half of the file": (BASELINE[:MIDDLE], 0.4, 0.6),
    "600 bytes in the middle overwritten": (BASELINE[:MIDDLE] + junk(600) + BASELINE[MIDDLE + 600 :], 0.4, 0.6),
    "overwritten from the 1st % on": (BASELINE[: SCAN + 400] + junk(50_000) + b"\xff\xd9", 0, 0.05),
    "a restart marker is missing": (ROWS[:THIRD_RESTART] + ROWS[THIRD_RESTART + 2 :], 0.05, 0.15),
    "a restart marker has a wrong number": (numbered(ROWS, 2, 7), 1, 1),
    "two restart markers have wrong numbers": (numbered(numbered(ROWS, 2, 7), 3, 0), 1, 1),
    "the last restart marker has a wrong number": (numbered(ROWS, -1, 0), 1, 1),
    "a restart marker has the next one's number": (numbered(ROWS, 2, 3), 0.05, 0.15),
    "a restart marker has the last one's number": (numbered(ROWS, 2, 1), 0.05, 0.15),
    "three intervals are missing": (ROWS[:THIRD_RESTART] + ROWS[SIXTH_RESTART:], 0.05, 0.15),
    "progressive, a restart marker has a wrong number": (numbered(PROGRESSIVE_ROWS, 2, 7), 1, 1),
    "progressive, three intervals are missing": (
        PROGRESSIVE_ROWS[: find_restarts(PROGRESSIVE_ROWS)[2]] + PROGRESSIVE_ROWS[find_restarts(PROGRESSIVE_ROWS)[5] :],
        0,
        0.15,
    ),
    "progressive, the last 20 bytes are gone": (PROGRESSIVE[:-22], 1, 1),
    "progressive, half of the last scan": (PROGRESSIVE[: (SCANS[-1] + len(PROGRESSIVE)) // 2], 1, 1),
    "progressive, the last scan is gone": (PROGRESSIVE[: SCANS[-1]] + b"\xff\xd9", 1, 1),
    "progressive, only the first scan": (PROGRESSIVE[: SCANS[1]], 0, 0),
    "progressive, half of the second scan": (PROGRESSIVE[: (SCANS[1] + SCANS[2]) // 2] + b"\xff\xd9", 0, 0),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_the_share_before_the_first_error_is_intact(what: str) -> None:
    data, least, most = DAMAGED[what]
    repaired, intact = native.repair(data, "mcu", True)
    assert least <= intact <= most
    right = (np.abs(pixels(repaired) - PIXELS).mean(-1) < 40).mean()
    assert right >= intact - 0.02


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("interval", ["mcu", "row", "none"])
def test_every_decoder_reads_what_is_repaired(what: str, interval: str) -> None:
    repaired, _ = native.repair(DAMAGED[what][0], interval, True)
    assert native.repair(repaired, interval, True) == (repaired, 1)
    ours = native.decode_crop(repaired, (0, 0, HEIGHT, WIDTH), False, (HEIGHT, WIDTH))
    # Random coefficients have colours far outside of RGB, which libjpeg clips earlier.
    assert np.abs(ours.astype(int) - pixels(repaired)).mean() < (20 if "1st %" in what else 1)


# Overwritten bytes leave averages that no pixels have, which are brought into their range.
@pytest.mark.parametrize("what", [what for what in DAMAGED if not re.search("overwritten|progressive", what)])
def test_it_shows_what_pillow_shows(what: str, truncated_are_shown: None) -> None:
    data = DAMAGED[what][0]
    assert (pixels(native.repair(data, "mcu", True)[0]) == pixels(data)).all()


@pytest.mark.parametrize("encoded", [BASELINE, PROGRESSIVE])
def test_a_sound_picture_is_cut_as_ever(encoded: bytes) -> None:
    assert native.repair(encoded, "mcu", True) == (native.cut(encoded, "mcu", True), 1)


@pytest.mark.parametrize("spoil", [lambda data: data[:300], lambda data: b"", lambda data: b"no JPEG at all"])
def test_what_shows_nothing_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"truncated|not a JPEG|Not a JPEG"):
        native.repair(spoil(BASELINE), "mcu", True)
