"""Prepare the confusion matrix for the report's page: an image of the cells, and the texts over and beside it."""

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

RIGHT, WRONG = (47, 111, 222), (226, 88, 34)  # visible on white and on black, and distinct for colour-blind readers
WIDEST = 1120  # px, the space in a page that is 1,280 px wide
MOST_TITLED = 2500  # the most cells with a tooltip
LONGEST_NAME = 24  # characters


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix.

    `row`, `column`: the position in the drawn order. `count`: the number of photographs. `share`: their share of the
    row, in [0, 1]. `true`, `predicted`: the names of the classes. `support`: the photographs of the true class.
    """

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
    """The template's variables for the matrix.

    `uri`: the image of the cells as a data: URI. `cell`, `side`: the size of a cell and of the matrix in px. `font`,
    `label_width`: the font size and the width of row labels in px. `names`: shortened class names. `full_names`: the
    complete ones. `cells`: the cells with a tooltip. `names` and `cells` are empty if there are too many classes.
    `counted`: whether counts are printed. `clustered`: whether similar classes are neighbours. `of_many`: the number of
    all classes if only those with the most mistakes are drawn, else 0.
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
    """Return what the report shows of the confusion matrix `matrix`: which classes, in which order, and how large.

    `matrix`: counts, int64 [C, C]. `classes`: C names, by label.
    """
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
        cells=_titled_cells(counts, shares, support, full) if names else (),
        counted=count <= COUNTED_UP_TO,
        clustered=clustered,
        of_many=len(classes) if count < len(classes) else 0,
    )


def _titled_cells(
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    support: npt.NDArray[np.int64],
    names: tuple[str, ...],
) -> tuple[Cell, ...]:
    """Return the nonzero cells with the greatest shares, at most MOST_TITLED."""
    strongest = np.argsort(-shares, axis=None, kind="stable")[: min(MOST_TITLED, int((counts > 0).sum()))]
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
    """Return a PNG with one pixel per cell as a data: URI: blue on the diagonal, orange off it.

    The greater a cell's share, the more opaque its pixel.
    """
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
