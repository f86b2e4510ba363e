"""Destinations of a conversion: a folder on this machine (`Folder`), or a folder behind a URL (`Bucket`)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from fasttrain.errors import UserError, fixable, of_os
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


class FileState(NamedTuple):
    """A file's size in bytes, and a stamp that changes if the file is replaced ("" if the place has no stamps)."""

    size: int
    stamp: str


class Destination(Protocol):
    """The folder that shards are written to. File names are relative to it, with slashes.

    A file is either complete or absent. The methods of a `Folder` raise OSError if the disk fails, and the context
    `exclusive` turns it into a UserError. The methods of a `Bucket` raise UserError. `str()` returns the path or URL
    for messages.
    """

    @property
    def location(self) -> Path | str:
        """Return the folder's path or URL."""

    def below(self, part: str) -> Destination:
        """Return the destination for the shards of one machine's part, in the folder `part`."""

    def exclusive(self, *, wait: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context that keeps other conversions on this machine out.

        If another conversion is running there, wait for it if `wait` is True, and otherwise raise UserError.
        """

    def manifest(self) -> Manifest:
        """Read the manifest. Raises UserError if it is missing or damaged."""

    def has(self, name: str) -> bool:
        """Return whether the file exists."""

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the files and folders in `folder`, sorted."""

    def shards(self) -> dict[str, FileState]:
        """Return the size and stamp of each regular file directly in the folder, such as the shards, by name."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError if it doesn't exist."""

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the bytes of small files, or None for a file that is missing or can't be read."""

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield the bytes of each range, which is given as (name, first byte, number of bytes)."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""

    def open_shard(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Return a context with a file for the shard `name`. The file is deleted if the context ends with an
        exception."""

    def finish_shard(self, name: str, index: bytes | None, record: Callable[[str], bytes]) -> None:
        """Make a shard visible: its tar, its DALI index and, last, its record.

        `record` takes the stamp of the tar and returns the bytes of the record. `index` is None if the shard has no
        photographs and so no tar. A bucket does this in the background; see `flush`.
        """

    def flush(self) -> None:
        """Wait until all finished shards are uploaded or safely on the disk."""

    def take_shard(self, part: Destination, name: str, *, empty: bool) -> None:
        """Make the shard `name` of `part`, and its record, available in this destination.

        `empty` says that the shard has no photographs. Then there is a record, but no tar.
        """

    def remove(self, names: Sequence[str]) -> None:
        """Remove files. When this returns, a power cut can't bring them back."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its contents, if it exists."""

    def clear_unfinished(self, folder: str = "") -> None:
        """Remove the unfinished files in `folder` that a killed conversion left."""


class Folder:
    """A folder on this machine. Its methods are explained in `Destination`."""

    def __init__(self, path: Path) -> None:
        self.location = path

    def __str__(self) -> str:
        return str(self.location)

    def below(self, part: str) -> Folder:
        return Folder(self.location / part)

    @contextlib.contextmanager
    def exclusive(self, *, wait: bool) -> Iterator[None]:
        """Return a context that keeps other conversions on this machine out of the folder.

        If another conversion is running there, wait for it if `wait` is True, and otherwise raise UserError. OSErrors
        with a known fix, such as a full disk, become UserErrors.
        """
        with locked(self.location, wait=wait, fix=CACHE if wait else OUT):
            yield

    def manifest(self) -> Manifest:
        return read_manifest(self.location)

    def has(self, name: str) -> bool:
        return (self.location / name).exists()

    def names(self, folder: str = "") -> list[str]:
        place = self.location / folder
        return sorted(path.name for path in place.iterdir()) if place.is_dir() else []

    def shards(self) -> dict[str, FileState]:
        with os.scandir(self.location) as entries:
            files = (entry for entry in entries if entry.is_file(follow_symlinks=False))
            return {entry.name: FileState(entry.stat().st_size, "") for entry in files}

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

    def flush(self) -> None:
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
    """Return a context that creates `folder` and keeps out other processes that call this function.

    If another process is in such a context, wait for it if `wait` is True, and otherwise raise UserError. OSErrors with
    a known fix become UserErrors that suggest `fix`. `shown` is the folder's name for messages.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder} is a file; give a folder")
        make_folder(folder)
        descriptor = lockable(folder)
        try:
            if not lock(descriptor, wait=wait):  # on a file system without locks, atomic writes still keep files intact
                where = shown or str(folder)
                raise UserError(f"{where}: another fasttrain convert is writing there; wait, or give another --out")
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _fixable(folder, error, fix) from error


def _fixable(folder: Path, error: OSError, fix: str) -> Exception:
    """Return a UserError if the user can fix `error`, and otherwise `error`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return of_os(error, folder, "free some space there, and run the same command again to resume")
    return fixable(error, error.filename or folder, fix) or error


def _link(there: Path, here: Path) -> None:
    # It is not moved, because the parts must stay usable if the merge is killed.
    """Make the file `there` also available as `here`."""
    here.unlink(missing_ok=True)
    try:
        os.link(there, here)
    except OSError:  # not every file system has links
        with there.open("rb") as part, atomic_write(here) as file:
            shutil.copyfileobj(part, file)
