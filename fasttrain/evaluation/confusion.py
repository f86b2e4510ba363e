"""The confusion matrix: of many classes it is sparse, since 10,000 would take 800 MB and hold mostly zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

DENSE_UP_TO = 1000
"""Classes; ImageNet's 1,000 take 8 MB."""

Confusion: TypeAlias = "npt.NDArray[np.int64] | csr_array"
"""int64[C, C], rows the true class, columns the predicted one; over `DENSE_UP_TO` classes SciPy's `csr_array`."""


def sparse_confusion(cells: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], classes: int) -> csr_array:
    """Return the matrix of `cells`, int64[N], each true * `classes` + predicted, and the count of each."""
    from scipy.sparse import csr_array

    return csr_array((counts, (cells // classes, cells % classes)), shape=(classes, classes), dtype=np.int64)


def cells_of(
    matrix: Confusion,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(true, predicted, count), int64[N] each, of the cells that are not 0, row by row."""
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
    """Return precision, recall and F1 of each class, float64[C]; 0 where one is undefined."""
    hits, predicted, support = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return ratio(hits, predicted), ratio(hits, support), ratio(2 * hits, predicted + support)


def ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `part` / `whole` of counts; 0 where both are 0."""
    return np.asarray(part / np.maximum(whole, 1), np.float64)


def plain_confusion(matrix: Confusion) -> list[list[int]] | dict[str, list[int]]:
    """Return `matrix` for JSON: rows of counts, or only the cells that are not 0 if it is sparse."""
    if isinstance(matrix, np.ndarray):
        rows: list[list[int]] = matrix.tolist()
        return rows
    names = ("true", "predicted", "count")
    return {name: each.tolist() for name, each in zip(names, cells_of(matrix), strict=True)}


def confusion_from_plain(plain: Any, classes: int) -> Confusion:
    """The inverse of `plain_confusion`. Raises KeyError, TypeError or ValueError for what is none of its."""
    if isinstance(plain, dict):
        true, predicted, count = (np.array(plain[name], np.int64) for name in ("true", "predicted", "count"))
        return sparse_confusion(true * classes + predicted, count, classes)
    return np.array(plain, np.int64).reshape(classes, classes)
