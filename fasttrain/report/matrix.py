"""The confusion matrix as the report's page draws it: an image of the cells, and what lies over and beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.confusion import Confusion
from fasttrain.report.figures import (
    CLUSTERED_FROM,
    COUNTED_UP_TO,
    GAMMA,
    NAMED_UP_TO,
    by_similarity,
    drawn_part,
    shares_of,
)

RIGHT, WRONG = (47, 111, 222), (226, 88, 34)  # seen on white and on black alike, and by the colour-blind apart
WIDEST = 1120  # px, what a page at 1,280 px has room for
SHARE_TOLD = 2500  # cells that say themselves when pointed at
LONGEST_NAME = 24


@dataclass(frozen=True)
class Cell:
    """One cell in the order drawn; `share` of its row, in [0, 1]."""

    row: int
    column: int
    count: int
    share: float
    true: str
    predicted: str
    support: int

    @property
    def strong(self) -> bool:
        """Return whether the colour is so dark that text on it must be white."""
        return self.share**GAMMA > 0.6


@dataclass(frozen=True)
class MatrixView:
    """All lengths in px. `names` and `cells` are empty where there are too many classes for them to be read.

    `of_many`: the number of all classes, where only those with the most mistakes are drawn, else 0.
    """

    uri: str
    cell: int
    side: int
    font: float
    label_width: int
    names: tuple[str, ...]
    full_names: tuple[str, ...]
    cells: tuple[Cell, ...]
    counted: bool
    clustered: bool
    of_many: int = 0


def matrix_view(matrix: Confusion, classes: Sequence[str]) -> MatrixView:
    """`matrix` int64[C, C] of counts, `classes` C names in label order."""
    drawn, labels = drawn_part(matrix)
    count = len(labels)
    clustered = count >= CLUSTERED_FROM
    order = by_similarity(drawn) if clustered else np.arange(count)
    counts = drawn[np.ix_(order, order)]
    support = matrix.sum(1)[labels[order]]
    shares = shares_of(counts, support)
    full = tuple(classes[label] for label in labels[order])
    names = tuple(_short(name) for name in full) if count <= NAMED_UP_TO else ()
    font = 12.0 if count <= 40 else 10.0 if count <= 70 else 8.5
    label_width = round(max((len(name) for name in names), default=0) * font * 0.55) + 10
    cell = max(1, min(44 if count <= 10 else 34, (WIDEST - label_width) // count))
    return MatrixView(
        uri=_image(shares),
        cell=cell,
        side=cell * count,
        font=font,
        label_width=label_width,
        names=names,
        full_names=full,
        cells=_told(counts, shares, support, full) if names else (),
        counted=count <= COUNTED_UP_TO,
        clustered=clustered,
        of_many=len(classes) if count < len(classes) else 0,
    )


def _told(
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    support: npt.NDArray[np.int64],
    names: tuple[str, ...],
) -> tuple[Cell, ...]:
    strongest = np.argsort(-shares, axis=None, kind="stable")[: min(SHARE_TOLD, int((counts > 0).sum()))]
    return tuple(
        Cell(
            row,
            column,
            int(counts[row, column]),
            float(shares[row, column]),
            names[row],
            names[column],
            int(support[row]),
        )
        for row, column in zip(*(each.tolist() for each in np.unravel_index(strongest, counts.shape)), strict=True)
    )


def _image(shares: npt.NDArray[np.float64]) -> str:
    """A PNG of one pixel a cell: blue on the diagonal, orange off it, as opaque as the share is large."""
    from PIL import Image

    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = WRONG
    pixels[..., :3][np.eye(len(shares), dtype=np.bool_)] = RIGHT
    pixels[..., 3] = np.rint(255 * shares**GAMMA)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
