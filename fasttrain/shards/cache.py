"""A cache of downloaded files on this machine's disk, with a limited size. Several processes share it.

A file gets its name only when it is complete. A process that maps a file holds a shared `flock` on it as long as the
mapping exists, so any process can tell which files are in use. Files in use are never deleted, but they count towards
the limit. If the cache becomes too large, the least recently used of the other files is deleted first. A file that is
being written has its full size from the start, and counts towards the limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from fasttrain.errors import UserError, of_os
from fasttrain.files import atomic_write, atomic_write_bytes, make_folder
from fasttrain.machine import allocated_bytes, delete_unlocked, lock, unlock

_LEFT_FREE = 5 * 10**9  # bytes of a large disk; of a small one, a tenth is left free


@dataclass(frozen=True)
class Cache:
    """The cache in the folder `root`. Its files take at most `limit` bytes, and no more than the disk can spare."""

    root: Path
    limit: int | None = None

    def budget(self) -> int:
        """Return how many bytes the files may take.

        This is `limit`, or less if the disk would have less than 5 GB (for a small disk: a tenth of its size) free.
        """
        with _disk_errors(self.root):
            return self._budget(self._files())

    def put(self, path: Path, data: bytes) -> None:
        """Add a small file with the content `data`, unless `path` exists. The name must identify the content.

        Raises UserError as `adding` does.
        """
        with _disk_errors(path):
            if not path.exists():
                make_folder(path.parent)
                atomic_write_bytes(path, data)

    @contextlib.contextmanager
    def exclusive(self, path: Path) -> Iterator[None]:
        """Return a context in which no other thread or process downloads `path`.

        Raises UserError if the folder can't be written.
        """
        with _disk_errors(path):
            make_folder(path.parent)
            descriptor = _locked(path.with_name(f".{path.name}.lock"))
        try:
            yield
        finally:
            _unlock(descriptor)

    @contextlib.contextmanager
    def adding(self, path: Path, size: int) -> Iterator[IO[bytes]]:
        """Return a context with a new file of `size` bytes, which becomes `path` when the context ends.

        Other files are deleted first if the cache would become too large. Use it within the context of
        `exclusive(path)`. Raises UserError if the disk is full or can't be written.
        """
        with _disk_errors(path):
            if size > shutil.disk_usage(self.root).total:  # a manifest may claim any size, so nothing is deleted for it
                raise UserError(
                    f"{path.name} has {size:,} bytes according to its manifest, more than the disk of {self.root} can "
                    "hold; if that size is wrong, write the shards again with `fasttrain convert`, otherwise set "
                    "FASTTRAIN_CACHE to a folder on a larger disk"
                )
            for unfinished in path.parent.glob(f".{path.name}.*.tmp"):
                unfinished.unlink(missing_ok=True)  # left by a killed process, as `exclusive` excludes other writers
            with atomic_write(path) as file:
                descriptor = _locked(self.root / ".lock")
                try:
                    file.truncate(size)
                    self._delete_least_used()
                finally:
                    _unlock(descriptor)
                yield file

    def open(self, path: Path) -> BinaryIO | None:
        """Open `path` for reading, or return None if it no longer exists.

        The cache keeps the file until every duplicate of its descriptor is closed.
        """
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        lock(file.fileno(), wait=True, shared=True)  # without locks, a mapped file stays readable after its deletion
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()
        return None

    def touch(self, path: Path) -> None:
        """Mark `path` as used just now."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return found

    def _budget(self, files: list[tuple[Path, os.stat_result]]) -> int:
        """Return how many bytes the files may take; see `budget`."""
        disk = shutil.disk_usage(self.root)
        spare = disk.free - min(disk.total // 10, _LEFT_FREE)
        most = max(spare + sum(allocated_bytes(stat) for _, stat in files), 0)
        return most if self.limit is None else min(self.limit, most)

    def _delete_least_used(self) -> None:
        """Delete the least recently used shards that are not in use, until the cache is within its limit."""
        files = self._files()
        over = sum(stat.st_size for _, stat in files) - self._budget(files)
        shards = [(path, stat) for path, stat in files if path.suffix == ".tar" and path.name[0] != "."]
        for path, stat in sorted(shards, key=lambda each: each[1].st_mtime_ns):
            if over <= 0:
                return
            if delete_unlocked(path):
                over -= stat.st_size


def _locked(path: Path) -> int:
    """Lock the file `path`, after creating it if needed, and return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    lock(descriptor, wait=True)  # some network file systems have no locks; renaming still keeps files intact
    return descriptor


def _unlock(descriptor: int) -> None:
    unlock(descriptor)  # closing is not enough if a process was forked meanwhile, because it holds the lock too
    os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Return a context that turns OSErrors into UserErrors with a fix."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "give a smaller --cache-size, or set" if full else "set"
        raise of_os(error, path, f"{fix} FASTTRAIN_CACHE to a folder that can be written") from error
