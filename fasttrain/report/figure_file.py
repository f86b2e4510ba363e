"""A matplotlib figure as a file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.files import atomic_write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_DPI = 150


def write_figure(path: Path, figure: Figure, kind: str = "png", **how: Any) -> None:
    """Writes `figure` as `kind` (png, svg, pdf), whole or not at all; `how` goes to `savefig`. Raises OSError.

    A class's name in a script that no font here has comes out as boxes, without matplotlib's warning for each sign;
    report.html leaves the choice of fonts to the browser.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format=kind, dpi=FIGURE_DPI, **how)
    atomic_write_bytes(path, buffer.getvalue())
