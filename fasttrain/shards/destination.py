"""The place that a conversion writes to: a folder on this machine, or one behind a URL (`Bucket`)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from fasttrain.errors import UserError, of_os, repairable
from fasttrain.files import (
    atomic_write,
    atomic_write_bytes,
    clear_temporaries,
    fsync_folder,
    make_folder,
)
from fasttrain.machine import lock, lockable
from fasttrain.shards.format import PARTS, Manifest, read_manifest

OUT, CACHE = "choose another --out", "set FASTTRAIN_CACHE to a folder that can be written"


class Held(NamedTuple):
    """A file's size in bytes, and a text that changes if the file is replaced ("" if there is none)."""

    size: int
    stamp: str


class Destination(Protocol):
    """A folder that shards are written to. Names are relative to it, with slashes.

    A file is either complete or absent. Folders raise OSErrors, which `alone` turns into UserErrors; buckets raise
    UserErrors. `str()` returns its path or URL for messages.
    """

    @property
    def location(self) -> Path | str:
        """The folder's path, or its URL."""

    def below(self, part: str) -> Destination:
        """Return the destination of one machine's part of the conversion."""

    def alone(self, *, wait: bool) -> contextlib.AbstractContextManager[None]:
        """Keep other conversions on this machine out. Raises UserError if one is running, unless `wait`."""

    def manifest(self) -> Manifest:
        """Read the manifest. Raises UserError if it is missing or damaged."""

    def has(self, name: str) -> bool:
        """Return whether the file exists."""

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the files and folders in `folder`, sorted."""

    def shards(self) -> dict[str, Held]:
        """Return all regular files that may be shards, by name."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the bytes of each of these small files, or None if it is missing or can't be read."""

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield byte ranges of files, each given as name, first byte and number of bytes."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file in one go."""

    def open_shard(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file to write a shard into. It is deleted if the body raises."""

    def finish_shard(self, name: str, index: bytes | None, record: Callable[[str], bytes]) -> None:
        """Put the shard `name`.tar, its DALI index and, last, its record in place. `record` is called with the stamp.

        `index` is None if `open_shard` was left without a shard. A bucket does this in the background: see `settle`.
        """

    def settle(self) -> None:
        """Wait until everything written is in place."""

    def take_shard(self, part: Destination, name: str, *, empty: bool) -> None:
        """Take a shard and its record from a part. `empty`: there is only a record."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove these files. The removal is durable when this returns."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its contents, if it exists."""

    def clear_unfinished(self, folder: str = "") -> None:
        """Remove unfinished files in `folder` that killed conversions left."""


class Folder:
    """A folder on this machine: see `Destination`."""

    def __init__(self, path: Path) -> None:
        self.location = path

    def __str__(self) -> str:
        return str(self.location)

    def below(self, part: str) -> Folder:
        return Folder(self.location / part)

    @contextlib.contextmanager
    def alone(self, *, wait: bool) -> Iterator[None]:
        """See `Destination`. OSErrors that the user can fix (disk full, no permission) become UserErrors."""
        with locked(self.location, wait=wait, fix=CACHE if wait else OUT):
            yield

    def manifest(self) -> Manifest:
        return read_manifest(self.location)

    def has(self, name: str) -> bool:
        return (self.location / name).exists()

    def names(self, folder: str = "") -> list[str]:
        place = self.location / folder
        return sorted(path.name for path in place.iterdir()) if place.is_dir() else []

    def shards(self) -> dict[str, Held]:
        with os.scandir(self.location) as entries:
            files = (entry for entry in entries if entry.is_file(follow_symlinks=False))
            return {entry.name: Held(entry.stat().st_size, "") for entry in files}

    def read(self, name: str) -> bytes:
        return (self.location / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        for name in names:
            try:
                yield self.read(name)
            except OSError:
                yield None

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        for name, start, length in ranges:
            with (self.location / name).open("rb") as file:
                file.seek(start)
                yield file.read(length)

    def write(self, name: str, data: bytes) -> None:
        make_folder((self.location / name).parent)
        atomic_write_bytes(self.location / name, data)

    def open_shard(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return atomic_write(self.location / f"{name}.tar")

    def finish_shard(self, name: str, index: bytes | None, record: Callable[[str], bytes]) -> None:
        if index is not None:
            atomic_write_bytes(self.location / f"{name}.idx", index)
        atomic_write_bytes(self.location / PARTS / f"{name}.json", record(""))

    def settle(self) -> None:
        fsync_folder(self.location)

    def take_shard(self, part: Destination, name: str, *, empty: bool) -> None:
        for file in () if empty else (f"{name}.tar", f"{name}.idx"):
            _link(Path(part.location) / file, self.location / file)
        self.write(f"{PARTS}/{name}.json", part.read(f"{PARTS}/{name}.json"))

    def remove(self, names: Sequence[str]) -> None:
        folders = {(self.location / name).parent for name in names}
        for name in names:
            (self.location / name).unlink(missing_ok=True)
        for folder in folders:
            fsync_folder(folder)

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self.location / folder, ignore_errors=folder == PARTS)

    def clear_unfinished(self, folder: str = "") -> None:
        clear_temporaries(self.location / folder)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool, fix: str, shown: str = "") -> Iterator[None]:
    """Create `folder`, and keep other processes that call this out of it. `shown` is its name for messages.

    Raises UserError if another process is there, unless `wait`, and for OSErrors of the body that the user can fix.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder} is a file; give a folder")
        make_folder(folder)
        descriptor = lockable(folder)
        try:
            if not lock(descriptor, wait=wait):  # without locks, atomic writes still keep files intact
                where = shown or str(folder)
                raise UserError(f"{where}: another fasttrain convert is writing there; wait, or give another --out")
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _fixable(folder, error, fix) from error


def _fixable(folder: Path, error: OSError, fix: str) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return of_os(error, folder, "make room and run the same command again: it resumes here")
    return repairable(error, error.filename or folder, fix) or error


def _link(there: Path, here: Path) -> None:
    # Not a move: a killed merge must leave the parts as they were.
    here.unlink(missing_ok=True)
    try:
        os.link(there, here)
    except OSError:  # not every file system has links
        with there.open("rb") as part, atomic_write(here) as file:
            shutil.copyfileobj(part, file)
