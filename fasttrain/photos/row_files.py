"""Read Parquet and Arrow files whose rows hold photographs."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fasttrain.errors import UserError
from fasttrain.photos.rows import PARQUET, Table, plain
from fasttrain.photos.spool import NONE, Batch, Spool

ARROW = (".arrow",)
SUFFIXES = (*PARQUET, *ARROW)
_LFS = b"version https://git-lfs"
_BYTES = ("image", "images", "img", "photo", "picture", "bytes", "imagebytes", "imagedata", "jpg", "jpeg", "png")
_AT_ONCE = 32  # photographs that are read at a time
_BUFFER = 4 << 20  # bytes

Features = dict[str, Any]
"""The descriptions of columns that `datasets` stores: `{"label": {"_type": "ClassLabel", "names": [...]}}`."""


class _Unusable(UserError):
    """Raised for a file that is not damaged, but can't be read in its present form."""


class RowFile(Protocol):
    """A file of rows. `rows` is the number of rows, `types` has the Arrow type of each column, and `features` is
    explained in `Features`."""

    path: Path
    rows: int
    types: dict[str, Any]
    features: Features

    def cells(self, columns: list[str]) -> list[list[Any]]:
        """Return the values of each of the given columns."""

    def field(self, column: str, name: str) -> list[Any]:
        """Return the values of the field `name` of a column of structs."""

    def digest(self, column: str) -> bytes:
        """Return a digest that changes with the photographs in `column`. The digest is computed without reading the
        photographs."""

    def read(self, row: int, column: str) -> bytes | None:
        """Return the bytes of the photograph in a row, or None if it has none. May be called from any thread."""


def open_rows(path: Path, spool: Spool) -> RowFile:
    """Open a Parquet or Arrow file.

    Raises UserError if the file is damaged or a Git LFS pointer, and OSError if it can't be read. `spool` is explained
    in `ParquetRows`.
    """
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        raise _Unusable(f"{path} is a Git-LFS pointer, not the file itself; get it with `git lfs pull`")
    return ArrowRows(path) if path.suffix.lower() in ARROW else ParquetRows(path, spool)


def holds_photographs(path: Path) -> bool:
    """Return whether a Parquet or Arrow file has a column of photographs.

    Return True for a file that can't be used yet, such as a Git LFS pointer, so that its error is reported.
    """
    try:
        rows = open_rows(path, Spool())
    except _Unusable:
        return True
    except (UserError, OSError):
        return False
    return bool(photograph_columns(rows, rows.features))


def photograph_columns(rows: RowFile, features: Features) -> list[str]:
    """Return the names of the columns that hold photographs.

    They are the columns that `features` describes as Image. If there are none, they are the columns of structs with
    bytes that `features` doesn't describe. If there are none of these, they are columns of bytes with a name such as
    "image".
    """
    structs = [name for name, kind in rows.types.items() if bytes_field(kind) == "bytes"]
    images = [name for name in structs if features.get(name, {}).get("_type") == "Image"]
    unknown = [name for name in structs if name not in features]
    named = [name for name, kind in rows.types.items() if bytes_field(kind) == "" and plain(name) in _BYTES]
    return images or unknown or named


def bytes_field(kind: Any) -> str | None:
    """Return where a column of the Arrow type `kind` holds bytes: "bytes" for the field `bytes` of a struct, "" for the
    column itself, None if it holds none."""
    import pyarrow.types as types

    if types.is_struct(kind):
        inner = {field.name: field.type for field in kind}.get("bytes")
        return "bytes" if inner is not None and _is_binary(inner) else None
    return "" if _is_binary(kind) else None


def file_names(rows: RowFile, column: str) -> Sequence[str | None]:
    """Return the original file name of each photograph in `column`, or None if it isn't known."""
    import pyarrow.types as types

    kind = rows.types[column]
    if not types.is_struct(kind) or not any(field.name == "path" for field in kind):
        return [None] * rows.rows
    return rows.field(column, "path")


def read_table(rows: RowFile) -> Table:
    """Return the columns of numbers, text, and lists of these. Lists of fractions are left out, because they are
    embeddings."""
    import pyarrow.types as types

    def small(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind):
            kind = kind.value_type
            if types.is_floating(kind):
                return False
        return not types.is_nested(kind) and not _is_binary(kind)

    columns = [name for name, kind in rows.types.items() if small(kind)]
    cells = rows.cells(columns)
    lines = list(range(1, rows.rows + 1))
    return Table(rows.path, columns, [list(row) for row in zip(*cells, strict=True)] or [[] for _ in lines], lines)


class ParquetRows:
    """A Parquet file as a `RowFile`.

    Its photographs are stored in row groups, which can only be read completely. So they are copied to a `Spool`.
    """

    def __init__(self, path: Path, spool: Spool) -> None:
        import pyarrow
        import pyarrow.parquet as parquet

        self.path, self._spool = path, spool
        try:
            file = parquet.ParquetFile(path)
            self._metadata, schema = file.metadata, file.schema_arrow
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(path, "Parquet", error) from error
        self.rows = self._metadata.num_rows
        self.types = _types(path, schema)
        self.features = _features(schema.metadata)
        sizes = [self._metadata.row_group(number).num_rows for number in range(self._metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def cells(self, columns: list[str]) -> list[list[Any]]:
        """Return the values of each of the given columns."""
        read = self._read(columns)
        return [read.column(name).to_pylist() for name in columns]

    def field(self, column: str, name: str) -> list[Any]:
        """Return the values of the field `name` of a column of structs."""
        structs = self._read([f"{column}.{name}"]).column(column).to_pylist()
        return [None if each is None else each[name] for each in structs]

    def digest(self, column: str) -> bytes:
        """Return the hash of the file's size and its footer, which contains the sizes and bounds of the column chunks.

        It is the same for each `column`.
        """
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(-8, 2)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-min(8 + length, size), 2)
            return hashlib.sha256(b"%d" % size + file.read()).digest()

    def read(self, row: int, column: str) -> bytes | None:
        """Return the bytes of the photograph in a row, or None if it has none. Raises UserError if the row group is
        damaged."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        batches = functools.partial(self._batches, group, column)
        return self._spool.read((id(self), group), row - int(self._starts[group]), batches)

    def _batches(self, group: int, column: str) -> Iterator[Batch]:
        """Yield the photographs of a row group, some at a time."""
        import pyarrow

        inner = bytes_field(self.types[column])
        leaf = f"{column}.{inner}" if inner else column
        try:
            read = self._open().iter_batches(_AT_ONCE, row_groups=[group], columns=[leaf], use_threads=False)
            for batch in read:
                yield _packed(_values(batch.column(0), inner))
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(self.path, "Parquet", error, f"row group {group} is damaged") from error

    def _read(self, columns: list[str]) -> Any:
        import pyarrow

        try:
            return self._open().read(columns=columns, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(self.path, "Parquet", error) from error

    def _open(self) -> Any:
        import pyarrow.parquet as parquet

        # It is opened for each use, because threads can't share it. The buffer avoids reading a row group in one piece.
        return parquet.ParquetFile(self.path, metadata=self._metadata, buffer_size=_BUFFER, pre_buffer=False)


class ArrowRows:
    """An Arrow file saved by `datasets`, mapped into memory, as a `RowFile`."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        self.path = path
        try:
            file = pyarrow.memory_map(str(path))
            stream = file.read(6) != b"ARROW1"
            file.seek(0)
            opened = pyarrow.ipc.open_stream(file) if stream else pyarrow.ipc.open_file(file)
            self._table = opened.read_all()
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(path, "Arrow", error) from error
        self.rows = self._table.num_rows
        self.types = _types(path, self._table.schema)
        self.features = _features(self._table.schema.metadata)

    def cells(self, columns: list[str]) -> list[list[Any]]:
        """Return the values of each of the given columns."""
        return [self._checked(name).to_pylist() for name in columns]

    def field(self, column: str, name: str) -> list[Any]:
        """Return the values of the field `name` of a column of structs."""
        values: list[Any] = self._checked(column, name).to_pylist()
        return values

    def digest(self, column: str) -> bytes:
        """Return the hash of the photographs' sizes."""
        import pyarrow.compute as compute

        sizes = compute.fill_null(compute.binary_length(self._photographs(column)), -1)
        return hashlib.sha256(np.asarray(sizes, np.int64).tobytes()).digest()

    def read(self, row: int, column: str) -> bytes | None:
        """Return the bytes of the photograph in a row, or None if it has none."""
        data: bytes | None = self._photographs(column)[row].as_py()
        return data

    @functools.cache  # noqa: B019 - a source lives as long as its files
    def _photographs(self, column: str) -> Any:
        return self._checked(column, bytes_field(self.types[column]))

    def _checked(self, column: str, inner: str | None = None) -> Any:
        """Return the values of a column, or of the field `inner` of its structs. Raises UserError if they are
        damaged."""
        import pyarrow

        values = self._table.column(column)
        if inner:
            chunks = [_values(chunk, inner) for chunk in values.chunks]
            values = pyarrow.chunked_array(chunks, values.type.field(inner).type)
        try:
            values.validate(full=True)  # without this, a damaged offset would lead outside of the file
        except (pyarrow.ArrowException, ValueError) as error:
            raise _damaged(self.path, "Arrow", error) from error
        return values


def _values(column: Any, inner: str | None) -> Any:
    """Return the field `inner` of a column of structs, with nulls for null structs, or the column itself."""
    import pyarrow.compute as compute

    return compute.struct_field(column, inner) if inner else column


def _packed(values: Any) -> Batch:
    """Return the values of an Arrow array as a batch, without copying them."""
    import pyarrow

    values = values.cast(pyarrow.large_binary())
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    lengths = np.where(values.is_valid().to_numpy(zero_copy_only=False), np.diff(ends), NONE)
    return Batch(memoryview(data or b"")[ends[0] : ends[-1]], ends[:-1] - ends[0], lengths)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _types(path: Path, schema: Any) -> dict[str, Any]:
    """Return the Arrow type of each column. Raises _Unusable if a name occurs twice."""
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise _Unusable(f"{path}: column '{twice[0]}' occurs twice; rename one")
    return {field.name: field.type for field in schema}


def _features(metadata: dict[bytes, bytes] | None) -> Features:
    """Return the descriptions of columns that `datasets` stored in the file's metadata."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}


def _damaged(path: Path, kind: str, error: BaseException, what: str = "") -> UserError:
    """Return the error for a file that can't be read."""
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: {what or f'not a readable {kind} file'} ({reason}); copy or download it again")
