"""The contact sheet: every picture in its place, unchanged but for whole-number enlargement."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.report.contact_sheet import GAP, LINE_PX, contact_sheet, save_sheet


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_pictures_stand_row_by_row_with_room_for_their_captions():
    images = pictures(5, 120, 150)
    sheet = np.asarray(contact_sheet(images, ["a", "b\nsecond line", "c", "d", "e"], columns=2))
    step_y = 120 + 2 * LINE_PX + GAP
    assert sheet.shape == (GAP + 3 * step_y, GAP + 2 * (150 + GAP), 3)
    for number, image in enumerate(images):
        y, x = GAP + number // 2 * step_y, GAP + number % 2 * (150 + GAP)
        assert (sheet[y : y + 120, x : x + 150] == image).all()
        below = sheet[y + 120 : y + 120 + 2 * LINE_PX, x : x + 150]
        assert below.min() < 160, "a caption"
    assert (below[LINE_PX + 2 :] == 255).all(), "the last one has one line"


def test_small_pictures_grow_by_a_whole_factor():
    images = pictures(3, 32, 48)
    sheet = np.asarray(contact_sheet(images, [], columns=3))
    assert (sheet[GAP : GAP + 128 : 4, GAP : GAP + 192 : 4] == images[0]).all()


def test_titled_rows_are_of_equal_length_and_start_right_of_their_titles():
    images = pictures(6, 120, 120)
    sheet = np.asarray(contact_sheet(images, [], rows=["native", "torchvision"]))
    left = sheet.shape[1] - 3 * (120 + GAP)
    assert left > 50
    assert (sheet[GAP : GAP + 120, left : left + 120] == images[0]).all()
    assert (sheet[GAP + 128 : GAP + 248, left : left + 120] == images[3]).all()


def test_a_long_caption_stays_below_its_picture():
    sheet = np.asarray(contact_sheet(pictures(2, 120, 120), ["a very long name of a class " * 5, ""], columns=2))
    assert (sheet[GAP + 120 :, GAP + 120 :] == 255).all()


@pytest.mark.parametrize(
    ("images", "captions", "rows"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), [], []),
        (np.zeros((2, 8, 8, 3), np.float32), [], []),
        (np.zeros((2, 8, 8, 3), np.uint8), ["one"], []),
        (np.zeros((3, 8, 8, 3), np.uint8), [], ["a", "b"]),
    ],
)
def test_what_does_not_fit_together_is_refused(images, captions, rows):
    with pytest.raises(ValueError):
        contact_sheet(images, captions, rows=rows)


def test_a_sheet_is_written_as_its_suffix_says(tmp_path):
    sheet = contact_sheet(pictures(1, 120, 120), [])
    for name, kind in (("a.png", "PNG"), ("deeper/b.jpg", "JPEG")):
        save_sheet(sheet, tmp_path / name)
        assert Image.open(tmp_path / name).format == kind
    with pytest.raises(UserError, match=r"c\.gif: give a name that ends in"):
        save_sheet(sheet, tmp_path / "c.gif")
    with pytest.raises(UserError, match=r"a\.png: is a file, not a folder"):
        save_sheet(sheet, tmp_path / "a.png" / "d.png")
