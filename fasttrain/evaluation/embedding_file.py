"""Write the embeddings of photographs to an `.npy` or `.parquet` file, for other programs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError, of_os
from fasttrain.extras import require
from fasttrain.files import atomic_write_bytes, require_place


def check_embeddings_file(path: Path) -> None:
    """Raise UserError if embeddings can't be written to `path`. Call this before computing them."""
    if path.suffix not in (".npy", ".parquet"):
        raise UserError(f"--embeddings {path}: give a name that ends in .npy or .parquet")
    if path.suffix == ".parquet":
        require(f"--embeddings {path}", "parquet", "pyarrow")
    try:
        require_place(path)
    except OSError as error:
        raise of_os(error, path, "give --embeddings another file") from error


def write_embeddings(path: Path, images: Sequence[str], embeddings: Sequence[NDArray[np.float32]]) -> None:
    """Write the embeddings of `images` to `path` atomically.

    `images`: the names of n photographs. `embeddings`: n arrays, float32 [features]. An `.npy` file holds float32
    [n, features]. A `.parquet` file has the columns `image` and `embedding`. Raises UserError if the file can't be
    written.
    """
    rows = np.stack(embeddings) if embeddings else np.empty((0, 0), np.float32)
    file = io.BytesIO()
    if path.suffix == ".npy":
        np.save(file, rows)
    else:
        import pyarrow
        import pyarrow.parquet

        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), max(rows.shape[1], 1))
        pyarrow.parquet.write_table(pyarrow.table({"image": list(images), "embedding": column}), file)
    try:
        atomic_write_bytes(path, file.getvalue())
    except OSError as error:
        raise of_os(error, path, "give --embeddings another file") from error
