"""A bounded cache on this machine's disk for fetched files. Several processes share it.

A file gets its name only once it is complete. A process that maps a file holds a shared `flock` on it for as long as
the mapping lives, so any process can tell what is in use. Such files are never deleted, but count. Of the others, the
least recently used is deleted first. A file that is being written has its full size from the start, and counts too.
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

_LEFT_FREE = 5 * 10**9  # of a large disk; a tenth of a small one


@dataclass(frozen=True)
class Cache:
    """Folders of files below `root`, of at most `limit` bytes, and no more than the disk can spare."""

    root: Path
    limit: int | None = None

    def budget(self) -> int:
        """Return how many bytes the files may take.

        That is `limit`, or what leaves 5 GB of the disk (a tenth of a small one) free.
        """
        with _disk_errors(self.root):
            return self._budget(self._files())

    def put(self, path: Path, data: bytes) -> None:
        """Add a small file whose name is a hash of `data`, unless it exists. Raises UserError as `adding` does."""
        with _disk_errors(path):
            if not path.exists():
                make_folder(path.parent)
                atomic_write_bytes(path, data)

    @contextlib.contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Keep other threads and processes from fetching `path` at the same time.

        Raises UserError if the folder can't be written.
        """
        with _disk_errors(path):
            make_folder(path.parent)
            ours = _locked(path.with_name(f".{path.name}.lock"))
        try:
            yield
        finally:
            _unlock(ours)

    @contextlib.contextmanager
    def adding(self, path: Path, size: int) -> Iterator[IO[bytes]]:
        """Yield a file of `size` bytes that becomes `path` when the body ends. Room is made first.

        Call it inside `alone(path)`. Raises UserError if the disk is full or can't be written.
        """
        with _disk_errors(path):
            if size > shutil.disk_usage(self.root).total:  # a manifest may claim any size, so nothing is deleted for it
                raise UserError(
                    f"{path.name}: its manifest claims {size:,} bytes, more than the disk of {self.root} holds"
                )
            for left_behind in path.parent.glob(f".{path.name}.*.tmp"):
                left_behind.unlink(missing_ok=True)  # left by a killed process; nobody else writes it now
            with atomic_write(path) as file:
                ours = _locked(self.root / ".lock")
                try:
                    file.truncate(size)
                    self._make_room()
                finally:
                    _unlock(ours)
                yield file

    def open(self, path: Path) -> BinaryIO | None:
        """Open `path` for reading. Return None if it no longer exists.

        The file is not deleted until the last duplicate of its descriptor is closed.
        """
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        lock(file.fileno(), wait=True, shared=True)  # without locks, a mapped file outlives its name anyway
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()
        return None

    def touch(self, path: Path) -> None:
        """Mark `path` as just used."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return found

    def _budget(self, files: list[tuple[Path, os.stat_result]]) -> int:
        disk = shutil.disk_usage(self.root)
        spare = disk.free - min(disk.total // 10, _LEFT_FREE)
        most = max(spare + sum(allocated_bytes(stat) for _, stat in files), 0)
        return most if self.limit is None else min(self.limit, most)

    def _make_room(self) -> None:
        files = self._files()
        over = sum(stat.st_size for _, stat in files) - self._budget(files)
        shards = [(path, stat) for path, stat in files if path.suffix == ".tar" and path.name[0] != "."]
        for path, stat in sorted(shards, key=lambda each: each[1].st_mtime_ns):
            if over <= 0:
                return
            if delete_unlocked(path):
                over -= stat.st_size


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    lock(descriptor, wait=True)  # some network file systems have no locks; renaming still keeps files intact
    return descriptor


def _unlock(descriptor: int) -> None:
    unlock(descriptor)  # closing is not enough: a process forked meanwhile holds the lock too
    os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "give a smaller --cache-size, or set" if full else "set"
        raise of_os(error, path, f"{fix} FASTTRAIN_CACHE to a folder that can be written") from error
