"""The confusion matrix. It is sparse for many classes, because a dense matrix of 10,000 classes would take 800 MB,
mostly zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

DENSE_UP_TO = 1000
"""The largest number of classes with a dense matrix. ImageNet's 1,000 take 8 MB."""

Confusion: TypeAlias = "npt.NDArray[np.int64] | csr_array"
"""Counts, int64 [C, C]: rows are true classes, columns predicted ones. A `csr_array` for over `DENSE_UP_TO` classes."""


def sparse_confusion(cells: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], classes: int) -> csr_array:
    """Return the sparse confusion matrix, int64 [`classes`, `classes`], with `counts` in `cells` and 0 elsewhere.

    `cells`: int64 [N], the number of each cell: true label * `classes` + predicted label. `counts`: int64 [N].
    """
    from scipy.sparse import csr_array

    return csr_array((counts, (cells // classes, cells % classes)), shape=(classes, classes), dtype=np.int64)


def cells_of(
    matrix: Confusion,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return true label, predicted label and count of each cell that isn't 0, row by row. Each is int64 [N]."""
    if isinstance(matrix, np.ndarray):
        true, predicted = matrix.nonzero()
        return true, predicted, matrix[true, predicted]
    cells = matrix.tocoo()
    order = np.lexsort((cells.col, cells.row))
    true, predicted, count = (each[order].astype(np.int64) for each in (cells.row, cells.col, cells.data))
    return true, predicted, count


def class_scores(
    matrix: Confusion,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return precision, recall and F1 of each class, each float64 [C] in [0, 1]. Undefined values are 0."""
    hits, predicted, support = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return ratio(hits, predicted), ratio(hits, support), ratio(2 * hits, predicted + support)


def ratio(part: npt.NDArray[np.int64], total: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `part` / `total` of counts, element by element, or 0 if the total is 0."""
    return np.asarray(part / np.maximum(total, 1), np.float64)


def plain_confusion(matrix: Confusion) -> list[list[int]] | dict[str, list[int]]:
    """Return `matrix` for JSON: a list of rows or, if it is sparse, a dict with lists of the nonzero cells."""
    if isinstance(matrix, np.ndarray):
        rows: list[list[int]] = matrix.tolist()
        return rows
    names = ("true", "predicted", "count")
    return {name: each.tolist() for name, each in zip(names, cells_of(matrix), strict=True)}


def confusion_from_plain(plain: Any, classes: int) -> Confusion:
    """Return the matrix from which `plain_confusion` made `plain`.

    Raises KeyError, TypeError or ValueError if `plain` has another form.
    """
    if isinstance(plain, dict):
        true, predicted, count = (np.array(plain[name], np.int64) for name in ("true", "predicted", "count"))
        return sparse_confusion(true * classes + predicted, count, classes)
    return np.array(plain, np.int64).reshape(classes, classes)
