"""`extra_labels.jsonl`: for each photograph, the values of the columns that are not its path, label, split or group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.photos.source import Source
from fasttrain.shards.checksum import sha256_of
from fasttrain.shards.keys import make_keys

ExtraLabels = dict[str, NDArray[Any] | list[Any]]


def extra_labels_file(source: Source) -> bytes:
    """Return the contents of the file: a line `{"key": KEY, "labels": {COLUMN: VALUE}}` for each photograph of
    `source`.

    Broken photographs are included, although no sample has their key.
    """
    return b"".join(extra_lines(source, make_keys(source.paths)))


def extra_lines(source: Source, keys: list[str]) -> Iterator[bytes]:
    """Yield the line of each photograph. `keys` has the key of each. Yields nothing if `source.extra` is empty."""
    for key, *cells in zip(keys, *source.extra.values(), strict=True) if source.extra else ():
        labels = dict(zip(source.extra, cells, strict=True))
        yield json.dumps({"key": key, "labels": labels}, separators=(",", ":")).encode() + b"\n"


def read_extra_labels(path: Path, keys: list[bytes], sha256: str) -> ExtraLabels:
    """Return the values of each column for the samples with the given keys, in the order of `keys`; see
    `ShardSet.extra_labels`.

    Raises UserError if the file is missing, or doesn't have the digest `sha256`.
    """
    again = "copy it again, or run convert --overwrite"
    try:
        with path.open("rb") as file:
            if sha256_of(file) != sha256:
                raise UserError(f"{path}: its bytes have changed since it was written; {again}")
            file.seek(0)
            lines = [json.loads(line) for line in file]
        found: dict[bytes, dict[str, Any]] = {line["key"].encode(): dict(line["labels"]) for line in lines}
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; {again}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:100]}); {again}") from error
    rows = [found.get(key, {}) for key in keys]
    columns = dict.fromkeys(name for labels in found.values() for name in labels)
    return {name: _column([row.get(name) for row in rows]) for name in columns}


def _column(values: list[Any]) -> NDArray[Any] | list[Any]:
    """Return values as an array of booleans, integers or floating-point numbers if possible, and otherwise
    unchanged."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, dtype=bool)
    if kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return np.array(values, dtype=np.int64)
    if kinds & {int, float} and kinds <= {int, float, type(None)}:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return values
