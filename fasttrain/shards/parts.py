"""Write shards one after the other, while threads prepare the photographs for the next ones.

A shard is either complete or absent. Threads are enough, because Pillow and the C++ module release the GIL while they
decode and encode. Processes started by `spawn` would import the caller's script again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from fasttrain.errors import UserError, fault_of_machine, no_memory
from fasttrain.photos.color import Color
from fasttrain.photos.cut import Interval
from fasttrain.photos.label_bits import members
from fasttrain.photos.normalize import BrokenPhoto, RawPhoto, StoredPhoto, decode, normalize
from fasttrain.photos.room import Hold, PixelBudget, pixels_of_file, pixels_that_fit
from fasttrain.photos.source import Source
from fasttrain.shards.checksum import crc32
from fasttrain.shards.destination import Destination, FileState
from fasttrain.shards.format import PARTS, SPLITS, Shard
from fasttrain.shards.layout import ShardJob
from fasttrain.shards.settings import ShardSettings
from fasttrain.shards.tar import TarWriter, npy_header
from fasttrain.text import printable

Photo = StoredPhoto | RawPhoto

# The threads work ahead by at most this many photographs and about this many bytes.
_MAX_AHEAD = 256
_BYTES_AHEAD = 64 << 20
_MOST_BYTES = 512 << 20  # a firm limit on photographs waiting for the writer, besides one per thread


@dataclass
class Part:
    """The record of a finished shard.

    It is stored in `.parts/NAME.json` until the index is made from all records. `index_sha256` is the digest of the
    DALI index, "" in records of older versions. `stamp` is explained in `FileState`.

    The lists have one value per stored photograph, except the last two: `broken` has (path, reason) of photographs that
    are left out, and `changed` has (path, reason) of stored photographs that differ from their files.
    """

    bytes: int = 0
    sha256: str = ""
    index_sha256: str = ""
    stamp: str = ""
    keys: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    labels: list[int] | list[list[int]] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def classes(self) -> list[int]:
        """Return the class numbers of all samples. The sets of multi-label samples are flattened."""
        return [number for label in self.labels for number in (label if isinstance(label, list) else [label])]

    def fits(self, job: ShardJob) -> bool:
        """Return whether this record can belong to `job`: it has no more photographs than `job`, the lists have equal
        lengths, and the numbers fit into an index."""
        columns = (self.offsets, self.lengths, self.widths, self.heights, self.crcs)
        keys = all(isinstance(key, str) and key.isascii() and key.isprintable() for key in self.keys)
        return (
            keys
            and len(self.keys) <= len(job.rows)
            and all(len(column) == len(self.keys) for column in (*columns, self.labels))
            and all(
                type(value) is int and 0 <= value < 1 << 32
                for column in (*columns[1:], self.classes)
                for value in column
            )
            and all(type(value) is int and 0 <= value < 1 << 63 for value in self.offsets)
        )

    def shard(self, job: ShardJob) -> Shard:
        """Return the shard's entry in the manifest."""
        return Shard(
            name=f"{job.name}.tar",
            split=SPLITS[job.split],
            samples=len(self.keys),
            bytes=self.bytes,
            sha256=self.sha256,
        )

    def check_strict(self, root: Path) -> None:
        """Raise UserError if a photograph is broken. The message names the first one."""
        if self.broken:
            path, reason = self.broken[0]
            raise UserError(f"{printable(str(root / path))}: {reason}; fix or remove it, or leave out --strict")


def read_parts(out: Destination, jobs: Sequence[ShardJob]) -> Iterator[tuple[ShardJob, Part | None]]:
    """Yield each job with the record of its shard.

    The record is None if the shard is unfinished, or if its tar has been replaced since.
    """
    held = out.shards()
    records = out.read_all([f"{PARTS}/{job.name}.json" for job in jobs])
    for job, record in zip(jobs, records, strict=True):
        yield job, None if record is None else _part(record, job, held)


def _part(record: bytes, job: ShardJob, held: dict[str, FileState]) -> Part | None:
    """Return the record of a shard, or None if it is damaged, or if the tar in the destination is another one.

    `held` has the state of each file in the destination.
    """
    try:
        plain = json.loads(record)
        for pairs in ("broken", "changed"):
            plain[pairs] = [(path, reason) for path, reason in plain.get(pairs, [])]
        part = Part(**plain)
        tar = FileState(part.bytes, part.stamp)
        intact = not part.keys or (held.get(f"{job.name}.tar") == tar and f"{job.name}.idx" in held)
        intact = intact and part.fits(job)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return part if intact else None


def write_parts(
    jobs: list[ShardJob],
    source: Source,
    keys: list[str],
    out: Destination,
    settings: ShardSettings,
    *,
    workers: int,
    strict: bool,
    advance: Callable[[], None],
) -> Iterator[tuple[ShardJob, Part]]:
    """Write the shard of each job, with its DALI index and its record. Yield the job and the record.

    `keys` has the key of each photograph of the source. `advance` is called after each photograph; if it raises an
    exception, the unfinished shard is dropped and the finished ones stay. Raises UserError for a broken photograph if
    `strict`, and OSError if the disk can't be written.
    """

    color = cast(Color, settings.color)
    budget = PixelBudget(pixels_that_fit())

    def convert(row: int, hold: Hold) -> Photo:
        with hold(pixels_of_file(source.size(row))):
            data = source.read(row)
            if settings.raw and settings.max_size:
                return decode(
                    data, max_size=settings.max_size, color=color, accept_damaged=settings.accept_damaged, hold=hold
                )
            return normalize(
                data,
                max_size=settings.max_size,
                quality=settings.quality,
                cut=cast(Interval, settings.cut),
                optimize=settings.optimize,
                color=color,
                hold=hold,
                accept_damaged=settings.accept_damaged,
            )

    def work(row: int) -> Photo | str:
        try:
            return budget.run(lambda hold: convert(row, hold))
        except BrokenPhoto as error:
            if no_memory(error.reason):
                raise MemoryError(f"at {source.root / source.paths[row]}") from error
            return error.reason
        except OSError as error:
            if fault_of_machine(error):  # otherwise all following photographs would be left out
                raise
            return f"can't be read: {error.strerror}"

    with ThreadPoolExecutor(workers) as pool:
        photos = _in_order(pool, work, (int(row) for job in jobs for row in job.rows), workers)
        try:
            for job in jobs:
                yield job, _write_part(job, photos, source, keys, out, strict, advance)
        finally:
            pool.shutdown(cancel_futures=True)


class _Empty(Exception):
    """Raised if every photograph of a shard is broken, so that no tar is written."""


def _write_part(
    job: ShardJob,
    photos: Iterator[Photo | str],
    source: Source,
    keys: list[str],
    out: Destination,
    strict: bool,
    advance: Callable[[], None],
) -> Part:
    """Write the shard of one job. `photos` yields its photographs in order: the converted photograph, or why it is
    broken."""
    part = Part()
    with contextlib.suppress(_Empty), out.open_shard(job.name) as file:
        tar = TarWriter(file)
        for row in job.rows.tolist():
            photo = next(photos)
            if isinstance(photo, str):
                part.broken.append((source.paths[row], photo))
                if strict:
                    part.check_strict(source.root)
            else:
                label = members(source.labels[row]) if source.multi_label else int(source.labels[row])
                _add(part, tar, photo, keys[row], label)
                if reason := photo.reason:
                    part.changed.append((source.paths[row], reason))
            advance()
        tar.close()
        if not part.keys:
            raise _Empty
    part.bytes, part.sha256 = tar.size, tar.sha256
    index = tar.dali_index() if part.keys else None
    part.index_sha256 = "" if index is None else hashlib.sha256(index).hexdigest()

    def record(stamp: str) -> bytes:
        return json.dumps(vars(replace(part, stamp=stamp)), separators=(",", ":")).encode()

    out.finish_shard(job.name, index, record)
    return part


def _add(part: Part, tar: TarWriter, photo: Photo, key: str, label: Any) -> None:
    """Add a photograph to the tar and to the record."""
    if isinstance(photo, RawPhoto):
        header = npy_header(photo.height, photo.width)
        data = photo.pixels
        part.offsets.append(tar.add(key, data, label, "npy", header))
    else:
        data = photo.jpeg
        part.offsets.append(tar.add(key, data, label))
    part.lengths.append(len(data))
    part.crcs.append(crc32(data))
    part.keys.append(key)
    part.widths.append(photo.width)
    part.heights.append(photo.height)
    part.labels.append(label)
    for how in photo.how:
        part.counts[how] = part.counts.get(how, 0) + 1


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], Photo | str], rows: Iterable[int], workers: int
) -> Iterator[Photo | str]:
    # Executor.map would submit all rows at once, which may be millions.
    """Yield the results of `work` for `rows`, in order, while threads work on the following rows."""
    waiting: deque[Future[Photo | str]] = deque()
    ahead = at_least = 4 * workers
    for row in rows:
        waiting.append(pool.submit(work, row))
        while len(waiting) >= ahead:
            photo = waiting.popleft().result()
            if not isinstance(photo, str):
                size = len(photo.pixels if isinstance(photo, RawPhoto) else photo.jpeg)
                ahead = max(at_least, min(_MAX_AHEAD, _BYTES_AHEAD // size))
                ahead = max(workers + 1, min(ahead, _MOST_BYTES // size))
            yield photo
    while waiting:
        yield waiting.popleft().result()
