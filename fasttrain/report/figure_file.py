"""Write matplotlib figures to files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.errors import of_os
from fasttrain.files import atomic_write_bytes, make_folder, require_place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_DPI = 150


@contextmanager
def missing_glyphs_as_boxes() -> Iterator[None]:
    """Suppress matplotlib's warning for each character that its font lacks. Matplotlib draws a box instead.

    Class names may be in any script. In `report.html` the browser chooses the fonts.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


def write_figure(path: Path, figure: Figure, kind: str = "png", **how: Any) -> None:
    """Write `figure` atomically. `kind`: "png", "svg" or "pdf". `how`: passed to `savefig`. Raises OSError if the file
    can't be written."""
    buffer = io.BytesIO()
    with missing_glyphs_as_boxes():
        figure.savefig(buffer, format=kind, dpi=FIGURE_DPI, **how)
    atomic_write_bytes(path, buffer.getvalue())


def require_picture(picture: Path) -> None:
    """Raise UserError if `picture` can't be written. Call this before the work that makes the picture."""
    try:
        require_place(picture)
    except OSError as error:
        raise of_os(error, fix="choose another --picture") from error


def write_picture(picture: Path, figure: Figure) -> None:
    """Write `figure` as the PNG file of a command's --picture. Raises UserError if it can't be written."""
    try:
        make_folder(picture.parent)
        write_figure(picture, figure)
    except OSError as error:
        raise of_os(error, picture, "choose another --picture") from error
