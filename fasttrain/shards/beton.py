"""Writes FFCV's `.beton` from shards: the very same JPEG bytes, not re-encoded as FFCV's own writer does.

The layout (header, field descriptors, samples' metadata, pages, allocation table) is FFCV 1.0's, file version 2
(`ffcv/types.py`, `ffcv/writer.py`), so FFCV's `Reader`, `Loader` and stock decoders read it. It follows from the JPEGs'
lengths alone: the file is the same each time, needs no ffcv to be written, and an interrupted one goes on at the page
where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.shards.atomic import atomic_write_bytes, fsync_folder
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet

RECORD = "beton.json"

_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
_FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8")], align=True)
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_RGB_IMAGE_FIELD, _INT_FIELD = 2, 1  # FFCV's type ids: its reader rejects those of subclasses (255)
_JPG_MODE = 0
_LEAST_PAGE = 1 << 23  # FFCV's default; no sample may cross a page


@dataclass(frozen=True)
class _Layout:
    head: bytes  # everything before the first page
    pointers: NDArray[np.uint64]  # each sample's first byte in the file
    lengths: NDArray[np.uint64]
    tail: bytes  # the allocation table


def write_betons(shards: ShardSet, advance: Callable[[int], None] = lambda images: None) -> list[Path]:
    """Writes `train.beton`, `val.beton`, `test.beton` (those that have samples) into the shards' folder.

    Sample k of a file is the k-th row of its split in the index. `advance(images)` is told of progress. Files already
    written from these shards are left alone. Raises UserError where the disk is full or the folder can't be written,
    and for `raw` shards.
    """
    if shards.raw:
        raise UserError(f"{shards.folder} holds pixels, a .beton JPEGs: convert without --raw into another folder")
    record = _read_record(shards)
    written = []
    for split in SPLITS:
        ids = shards.ids(split)
        path = shards.folder / f"{split}.beton"
        if not len(ids):
            continue
        written.append(path)
        if beton_problem(shards, split) is None:
            advance(len(ids))
            continue
        try:
            digest = _write(path, shards, ids, advance)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; free some space there and convert again") from error
        record["files"][path.name] = {"samples": len(ids), "bytes": path.stat().st_size, "sha256": digest}
        atomic_write_bytes(shards.folder / RECORD, json.dumps(record, indent=2).encode())
    return written


def beton_problem(shards: ShardSet, split: str) -> str | None:
    """Why there is no `.beton` for `split` of these shards, with the mend; None where there is a good one."""
    path = shards.folder / f"{split}.beton"
    known = _read_record(shards)["files"].get(path.name)
    mend = "convert with --format tar,beton"
    if not path.exists() or not known:
        return f"{path} is not there; {mend}"
    if path.stat().st_size != known["bytes"]:
        return f"{path} has {path.stat().st_size} bytes, not {known['bytes']}; {mend}"
    return None


def _read_record(shards: ShardSet) -> dict[str, Any]:
    fresh: dict[str, Any] = {"shards": shards.fingerprint, "files": {}}
    try:
        record = json.loads((shards.folder / RECORD).read_text())
    except (OSError, ValueError):
        return fresh
    return record if record.get("shards") == shards.fingerprint else fresh


def _plan_layout(shards: ShardSet, ids: NDArray[np.int64]) -> _Layout:
    rows = shards.index[ids]
    lengths = rows["length"].astype(np.uint64)
    page = max(_LEAST_PAGE, 1 << int(lengths.max() - 1).bit_length())
    head_size = _HEADER.itemsize + 2 * _FIELD.itemsize + len(ids) * _SAMPLE.itemsize
    pages_start = -(-head_size // page) * page
    offsets = np.empty(len(ids), dtype=np.uint64)
    used = page_number = 0
    for sample, length in enumerate(lengths.tolist()):
        if used + length > page:
            page_number, used = page_number + 1, 0
        offsets[sample] = page_number * page + used
        used += length
    pointers = offsets + np.uint64(pages_start)
    table = pages_start + (page_number + 1) * page

    header = np.zeros(1, _HEADER)
    header[0] = (2, 2, page, len(ids), table)
    fields = np.zeros(2, _FIELD)
    for field, type_id, name in zip(fields, (_RGB_IMAGE_FIELD, _INT_FIELD), (b"image", b"label"), strict=True):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name, np.uint8)
    samples = np.zeros(len(ids), _SAMPLE)
    samples["image"]["mode"] = _JPG_MODE
    samples["image"]["width"], samples["image"]["height"] = rows["width"], rows["height"]
    samples["image"]["data_ptr"] = pointers
    samples["label"] = rows["label"]
    allocations = np.zeros(len(ids), _ALLOCATION)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(len(ids)), pointers, lengths
    head = header.tobytes() + fields.tobytes() + samples.tobytes()
    return _Layout(head.ljust(pages_start, b"\0"), pointers, lengths, allocations.tobytes())


def _write(path: Path, shards: ShardSet, ids: NDArray[np.int64], advance: Callable[[int], None]) -> str:
    layout = _plan_layout(shards, ids)
    # Named after the shards: what another data set left behind is never gone on from.
    partial = path.with_name(f".{path.name}.{shards.fingerprint[-12:]}.partial")
    with partial.open("r+b" if partial.exists() else "w+b") as file:
        first = _resume_point(file.seek(0, os.SEEK_END), layout)
        if first == 0:
            file.truncate(0)
            file.seek(0)
            file.write(layout.head)
        else:
            file.truncate(int(layout.pointers[first]))
            advance(first)
        for position in range(first, len(ids)):
            file.seek(int(layout.pointers[position]))
            file.write(shards.bytes(int(ids[position])))
            advance(1)
        file.seek(int(np.frombuffer(layout.head, _HEADER, 1)["alloc_table_ptr"][0]))
        file.write(layout.tail)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest = _sha256(file)
    partial.replace(path)
    fsync_folder(path.parent)
    return digest


def _resume_point(size: int, layout: _Layout) -> int:
    """The first sample to write again: the one before what may have been torn, 0 for a fresh file."""
    whole = np.searchsorted(layout.pointers + layout.lengths, size, side="right")
    return max(int(whole) - 1, 0) if size > len(layout.head) else 0


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
