"""Draw a contact sheet: a grid of pictures with a caption below each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError, of_os
from fasttrain.files import atomic_write_bytes, make_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

BACKGROUND, INK, FAINT = "#ffffff", "#222222", "#777777"
FONT_PX = 13
LINE_PX = 17
GAP = 8
LEAST_SIDE = 112  # px; smaller pictures are enlarged by an integer factor, so that their pixels stay sharp
SHEET_WIDTH = 1400  # px, about the width of a screen


def contact_sheet(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    *,
    title: str = "",
    columns: int | None = None,
    rows: Sequence[str] = (),
) -> Image:
    """Draw `images`, uint8 RGB [n, H, W, 3], in a grid, row by row, with a caption below each.

    `captions`: one per picture, or none at all. "\\n" starts a second line, and a line that is too long ends with an
    ellipsis. `title`: a line above the grid. `columns`: the number of columns, by default as many as make the sheet
    about as wide as a screen. `rows`: a title to the left of each row; the pictures are divided into len(rows) rows of
    equal length. Raises ValueError if the numbers of pictures, captions and rows don't match.
    """
    from PIL import Image, ImageDraw

    count = len(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not count:
        raise ValueError(f"a contact sheet takes uint8 [n, H, W, 3] with n > 0, not {images.dtype} {images.shape}")
    if captions and len(captions) != count:
        raise ValueError(f"{len(captions)} captions for {count} pictures")
    if rows and count % len(rows):
        raise ValueError(f"{count} pictures don't make {len(rows)} rows of equal length")
    factor = max(1, math.ceil(LEAST_SIDE / min(images.shape[1:3])))
    height, width = (side * factor for side in images.shape[1:3])
    if rows:
        columns = count // len(rows)
    elif columns is None:
        columns = max(1, min(math.ceil(math.sqrt(count * 1.5)), SHEET_WIDTH // (width + GAP)))
    columns = min(columns, count)
    font = _font()
    lines = [caption.split("\n") for caption in captions] or [[]] * count
    text_height = LINE_PX * max(map(len, lines))
    left = GAP + (max(math.ceil(font.getlength(row)) for row in rows) + GAP if rows else 0)
    top = GAP + (LINE_PX + GAP if title else 0)
    step_x, step_y = width + GAP, height + text_height + GAP
    grid_rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (left + columns * step_x, top + grid_rows * step_y), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, GAP), _fitted(title, sheet.width - 2 * GAP, font), INK, font)
    for number, row in enumerate(rows):
        draw.text((GAP, top + number * step_y + height // 2), row, INK, font, anchor="lm")
    for number, (pixels, caption_lines) in enumerate(zip(images, lines, strict=True)):
        x, y = left + number % columns * step_x, top + number // columns * step_y
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        sheet.paste(tile.resize((width, height), Image.Resampling.NEAREST) if factor > 1 else tile, (x, y))
        for line, text in enumerate(caption_lines):
            place = (x, y + height + 2 + line * LINE_PX)
            draw.text(place, _fitted(text, width, font), FAINT if line else INK, font)
    return sheet


def picture_format(path: Path) -> str:
    """Return Pillow's name for the format of `path`, by its suffix. Raises UserError if it isn't PNG, JPEG or WebP."""
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in ("PNG", "JPEG", "WEBP"):
        raise UserError(f"{path}: give a name that ends in .png, .jpg or .webp")
    return kind


def save_sheet(sheet: Image, path: Path) -> None:
    """Write `sheet` atomically, in the format of the suffix of `path`. Raises UserError if it can't be written."""
    import io

    file = io.BytesIO()
    sheet.save(file, picture_format(path))
    try:
        make_folder(path.parent)
        atomic_write_bytes(path, file.getvalue())
    except OSError as error:
        raise of_os(error, path) from error


def _font() -> FreeTypeFont:
    # Matplotlib includes DejaVu, which has Latin, Greek, Cyrillic and more. Pillow's own font has only Latin.
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_PX)


def _fitted(text: str, width: float, font: FreeTypeFont) -> str:
    """Return `text`, shortened with an ellipsis if it is wider than `width` px."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
