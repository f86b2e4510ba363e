"""Read photographs from FFCV's `.beton` files: JPEGs unchanged, and raw pixels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.photos.beton_layout import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE_FIELD,
    IN_A_ROW,
    INT_FIELD,
    JPEG_MODE,
    RAW_MODE,
    VERSION,
)
from fasttrain.photos.container import Container, find_files, holds
from fasttrain.photos.records import Record, list_records
from fasttrain.photos.source import Listing, SourceOptions
from fasttrain.photos.walk import Ignored

OPTIONS = frozenset({"class_names", "label_column"})
FILES = re.compile(r"\.beton$", re.IGNORECASE)
_CUT_OFF = "truncated, or never finished"


def claims(source: str) -> bool:
    """Return whether `source` is a .beton file, a pattern of such files, or a folder with them."""
    return holds(source, FILES)


def listed(source: str | Path, options: SourceOptions) -> Listing:
    """List the photographs in `.beton` files.

    Raises UserError if a file is damaged, or has no image field or no integer field.
    """
    files = find_files(source, FILES)
    records: list[Record] = []
    ignored: list[Ignored] = []
    places: dict[str, tuple[Container, int, int, bytes]] = {}
    for number, path in enumerate(files.paths):
        container = Container(path)
        images, labels = _rows(container)
        sizes = _sizes(container, images["data_ptr"])
        names = list(labels)
        columns = [labels[name].tolist() for name in names]
        for row, (mode, width, height, start) in enumerate(images.tolist()):
            size = int(sizes[row])
            inner = f"{files.name(number)}{row:08d}.{'jpg' if mode == JPEG_MODE else 'ppm'}"
            if reason := _why_not(mode, width, height, size):
                ignored.append((inner, reason))
                continue
            head = b"" if mode == JPEG_MODE else b"P6 %d %d 255\n" % (width, height)
            own = {name: str(column[row]) for name, column in zip(names, columns, strict=True)}
            records.append(Record(inner, len(head) + size, files.splits[number], container.stamp, own))
            places[inner] = container, start, size, head

    def read(path: str) -> bytes:
        container, start, size, head = places[path]
        return head + container.read(start, size)

    return list_records("beton", files, records, options, own=("label",), ignored=ignored, read=read)


def _rows(container: Container) -> tuple[NDArray[np.void], dict[str, NDArray[np.int64]]]:
    """Return the image field of each sample, of the dtype `beton_layout.IMAGE`, and the values of each integer field by
    the field's name."""
    header = _array(container, 0, 1, HEADER)[0]
    if header["version"] != VERSION:
        raise _refused(container, f"its version is {header['version']}, but only {VERSION} can be read")
    fields = _array(container, HEADER.itemsize, int(header["num_fields"]), FIELD)
    names = [bytes(field["name"]).rstrip(b"\0").decode("utf-8", "replace") for field in fields]
    kinds = fields["type_id"].tolist()
    images = [name for name, kind in zip(names, kinds, strict=True) if kind == IMAGE_FIELD]
    integers = [name for name, kind in zip(names, kinds, strict=True) if kind == INT_FIELD]
    unknown = [name for name, kind in zip(names, kinds, strict=True) if kind not in IN_A_ROW]
    if unknown:
        raise _refused(container, f"its field {unknown[0]!r} has a custom type")
    if len(images) != 1 or not integers or len(set(names)) < len(names):
        raise _refused(container, f"its fields are {', '.join(names)}, but one RGB image and a label are needed")
    layout = np.dtype([(str(number), IN_A_ROW[kind]) for number, kind in enumerate(kinds)], align=True)
    rows = _array(container, HEADER.itemsize + fields.nbytes, int(header["num_samples"]), layout)
    if not len(rows):
        raise _refused(container, "it has no samples")
    columns = {name: rows[str(number)] for number, name in enumerate(names)}
    return columns[images[0]], {name: columns[name] for name in integers}


def _sizes(container: Container, pointers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of bytes at each pointer, int64 [n], or -1 if the pointer is invalid."""
    table = int(_array(container, 0, 1, HEADER)[0]["alloc_table_ptr"])
    count, rest = divmod(container.size - table, ALLOCATION.itemsize)
    if not table or rest or count < len(pointers):
        raise _refused(container, _CUT_OFF)
    allocations = np.sort(_array(container, table, count, ALLOCATION), order="ptr")
    at = np.searchsorted(allocations["ptr"], pointers).clip(max=count - 1)
    found = allocations[at]
    ends = found["ptr"] + found["size"]
    good = (found["ptr"] == pointers) & (ends <= container.size) & (ends >= found["ptr"])
    return np.where(good, found["size"], 0).astype(np.int64) - ~good


def _why_not(mode: int, width: int, height: int, size: int) -> str | None:
    """Return why an image can't be read, or None if it can."""
    if size < 0:
        return "its pointer is invalid"
    if mode not in (JPEG_MODE, RAW_MODE):
        return f"stored in an unknown mode ({mode})"
    if mode == RAW_MODE and size != width * height * 3:
        return f"{size:,} bytes for {width} x {height} pixels"
    return None


def _array(container: Container, start: int, count: int, kind: np.dtype[np.void]) -> NDArray[np.void]:
    """Return `count` records from position `start` of the file."""
    if not 0 <= start <= start + count * kind.itemsize <= container.size:
        raise _refused(container, _CUT_OFF)
    return np.frombuffer(container.read(start, count * kind.itemsize), kind)


def _refused(container: Container, why: str) -> UserError:
    """Return the error for a file that can't be read."""
    return UserError(f"{container.path}: not a readable .beton ({why}); write it again with FFCV, or copy it again")
