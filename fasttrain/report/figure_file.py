"""Write a matplotlib figure to a file."""

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
    """Draw a class's name in a script that no font here has as boxes, without matplotlib's warning for each sign.

    report.html leaves the choice of fonts to the browser.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


def write_figure(path: Path, figure: Figure, kind: str = "png", **how: Any) -> None:
    """Write `figure` as `kind` (png, svg, pdf), completely or not at all; `how` goes to `savefig`. Raises OSError."""
    buffer = io.BytesIO()
    with missing_glyphs_as_boxes():
        figure.savefig(buffer, format=kind, dpi=FIGURE_DPI, **how)
    atomic_write_bytes(path, buffer.getvalue())


def require_picture(picture: Path) -> None:
    """Raise UserError where `picture` can't be written: it is said before the work is done, and not after it."""
    try:
        require_place(picture)
    except OSError as error:
        raise of_os(error, repair="choose another --picture") from error


def write_picture(picture: Path, figure: Figure) -> None:
    """Write the `figure` of a command's --picture as PNG. Raises UserError where it can't be written."""
    try:
        make_folder(picture.parent)
        write_figure(picture, figure)
    except OSError as error:
        raise of_os(error, picture, "choose another --picture") from error
