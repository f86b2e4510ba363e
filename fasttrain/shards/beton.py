"""Write FFCV's `.beton` files from shards. The JPEGs are copied, not encoded again as FFCV would do.

The layout is FFCV's (see `beton_layout`), so FFCV's `Reader`, `Loader` and usual decoders read the files. The layout
depends only on the lengths of the JPEGs. So the same shards always give the same file, ffcv is not needed to write it,
and an interrupted file is resumed where it stopped.
"""

from __future__ import annotations

import errno
import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError, of_os
from fasttrain.files import atomic_write_bytes, fsync_folder
from fasttrain.machine import sync_file
from fasttrain.photos.beton_layout import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE,
    IMAGE_FIELD,
    IN_A_ROW,
    INT_FIELD,
    JPEG_MODE,
    VERSION,
)
from fasttrain.shards.checksum import sha256_of
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import Located, ShardSet

RECORD = "beton.json"
NO_LABEL = -1
"""The label in files of multi-label shards, because FFCV's label is one number."""

_SAMPLE = np.dtype([("image", IMAGE), ("label", IN_A_ROW[INT_FIELD])], align=True)
_LEAST_PAGE = 1 << 23  # FFCV's default; no sample may cross a page


@dataclass(frozen=True)
class _Layout:
    """The positions of everything in a `.beton` file."""

    head: bytes  # everything before the first page
    pointers: NDArray[np.uint64]  # the position of each sample's first byte in the file
    lengths: NDArray[np.uint64]  # the number of bytes of each sample
    tail: bytes  # the allocation table
    table: int  # the position of the allocation table


def write_betons(shards: ShardSet, advance: Callable[[int], None] = lambda images: None) -> list[Path]:
    """Write `train.beton`, `val.beton` and `test.beton` into the shards' folder. Return the paths of the files.

    A split without samples gets no file. Sample k of a file is the k-th row of its split in the index. Files that were
    written from these shards before are kept. `advance` is called with numbers of images to report progress. Raises
    UserError if the disk is full or the folder can't be written, and if the shards hold pixels (`raw`).
    """
    if shards.raw:
        raise UserError(
            f"{shards.folder} holds pixels, but a .beton needs JPEGs: convert without --raw into another folder"
        )
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
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            fix = "free some space there, and run the same command again to resume" if full else "choose another --out"
            raise of_os(error, path, fix) from error
        record["files"][path.name] = {"samples": len(ids), "bytes": path.stat().st_size, "sha256": digest}
        atomic_write_bytes(shards.folder / RECORD, json.dumps(record, indent=2).encode())
    return written


def beton_problem(shards: ShardSet, split: str) -> str | None:
    """Return why the `.beton` file of `split` can't be used, with the fix, or None if it can."""
    path = shards.folder / f"{split}.beton"
    known = _read_record(shards)["files"].get(path.name)
    fix = "convert with --format tar,beton"
    if not path.exists() or not known:
        return f"{path} does not exist; {fix}"
    if path.stat().st_size != known["bytes"]:
        return f"{path} has {path.stat().st_size:,} bytes, not {known['bytes']:,}; {fix}"
    return None


class BetonBytes:
    """The `.beton` file of `split`, mapped into memory.

    FFCV follows the pointers in a file without checking them, so this class compares them with the index first. Raises
    UserError if the header or the allocation table doesn't match the shards.
    """

    def __init__(self, shards: ShardSet, split: str) -> None:
        path = shards.folder / f"{split}.beton"
        self._layout = layout = _plan_layout(shards, shards.ids(split))
        try:
            with path.open("rb") as file:
                self._mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: mmap refuses an empty file
            raise UserError(f"{path}: can't be read ({error}); convert with --format tar,beton") from error
        table = len(self._mapped) - len(layout.tail)
        same = self._mapped[: len(layout.head)] == layout.head and table == layout.table
        if not same or self._mapped[table:] != layout.tail:
            index = shards.folder / shards.manifest.index.name
            raise UserError(f"{path} does not match {index}; convert with --format tar,beton")

    def locate(self, rows: NDArray[np.int64]) -> Located:
        """Return the positions of samples' bytes in the file. `rows`, int64 [n], are positions in the split."""
        which = np.zeros(len(rows), np.int32)
        return Located([self._mapped], which, self._layout.pointers[rows], self._layout.lengths[rows])


def verify_betons(shards: ShardSet) -> list[str]:
    """Compare each `.beton` file with its checksum. Return a line for each problem."""
    here = sorted(shards.folder.glob("*.beton"))
    record = shards.folder / RECORD
    if not here and not record.exists():
        return []
    known = _read_record(shards)["files"]
    names = {path.name for path in here} | known.keys()
    if not known:
        return [f"{record}: not a record of these shards' .beton files; convert with --format tar,beton"]
    problems = []
    for name in sorted(names):
        problem = beton_problem(shards, name.removesuffix(".beton"))
        if problem is None:
            try:
                with (shards.folder / name).open("rb") as file:
                    changed = sha256_of(file) != known[name]["sha256"]
                problem = f"{shards.folder / name}: its bytes have changed since it was written" if changed else None
            except OSError as error:
                problem = f"{shards.folder / name}: can't be read ({error.strerror})"
        if problem:
            problems.append(problem)
    return problems


def _read_record(shards: ShardSet) -> dict[str, Any]:
    """Return the record of the `.beton` files of these shards, or an empty record if there is none or it is invalid."""
    fresh: dict[str, Any] = {"shards": shards.fingerprint, "files": {}}
    try:
        record = json.loads((shards.folder / RECORD).read_text())
        if record["shards"] != shards.fingerprint:
            return fresh
        counts = {f"{split}.beton": count for split, count in shards.manifest.splits.items() if count}
        for name, file in record["files"].items():
            valid = type(file["bytes"]) is int and type(file["sha256"]) is str
            if file["samples"] != counts[name] or not valid:
                return fresh
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return fresh
    return {"shards": record["shards"], "files": record["files"]}


def _plan_layout(shards: ShardSet, ids: NDArray[np.int64]) -> _Layout:
    """Return the layout of the `.beton` file with the samples `ids`."""
    rows = shards.index[ids]
    lengths = rows["length"].astype(np.uint64)
    page = max(_LEAST_PAGE, 1 << int(lengths.max() - 1).bit_length())
    head_size = HEADER.itemsize + 2 * FIELD.itemsize + len(ids) * _SAMPLE.itemsize
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

    header = np.zeros(1, HEADER)
    header[0] = (VERSION, 2, page, len(ids), table)
    fields = np.zeros(2, FIELD)
    for field, type_id, name in zip(fields, (IMAGE_FIELD, INT_FIELD), (b"image", b"label"), strict=True):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name, np.uint8)
    samples = np.zeros(len(ids), _SAMPLE)
    samples["image"]["mode"] = JPEG_MODE
    samples["image"]["width"], samples["image"]["height"] = rows["width"], rows["height"]
    samples["image"]["data_ptr"] = pointers
    samples["label"] = NO_LABEL if shards.multi_label else rows["label"]
    allocations = np.zeros(len(ids), ALLOCATION)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(len(ids)), pointers, lengths
    head = header.tobytes() + fields.tobytes() + samples.tobytes()
    return _Layout(head.ljust(pages_start, b"\0"), pointers, lengths, allocations.tobytes(), table)


def _write(path: Path, shards: ShardSet, ids: NDArray[np.int64], advance: Callable[[int], None]) -> str:
    """Write a `.beton` file, or resume it. Return its sha256."""
    layout = _plan_layout(shards, ids)
    # The name contains the shards' fingerprint, so that another data set's partial file is never resumed.
    partial = path.with_name(f".{path.name}.{shards.fingerprint[-12:]}.partial")
    with partial.open("r+b" if partial.exists() else "w+b") as file:
        first = _resume_point(file, layout, shards, ids)
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
        file.seek(layout.table)
        file.write(layout.tail)
        file.flush()
        sync_file(file.fileno())
        file.seek(0)
        digest = sha256_of(file)
    partial.replace(path)
    fsync_folder(path.parent)
    return digest


def _resume_point(file: IO[bytes], layout: _Layout, shards: ShardSet, ids: NDArray[np.int64]) -> int:
    """Return the position of the first sample whose bytes are not in the file yet.

    The bytes are compared, because the file's size is unreliable after a power cut.
    """
    if file.read(len(layout.head)) != layout.head:
        return 0
    for position, pointer in enumerate(layout.pointers.tolist()):
        file.seek(pointer)
        if file.read(int(layout.lengths[position])) != shards.bytes(int(ids[position])):
            return position
    return len(ids) - 1
