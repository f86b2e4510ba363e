"""Write files atomically, so that each is complete or absent: write a temporary file, fsync it, rename it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fasttrain.machine import WINDOWS, is_running, sync_file

_BUFFER = 1 << 20  # bytes; collects a checkpoint's hundreds of small tensors into few writes
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{8})\.(\d+)\.tmp(\.tmp)?")  # torch's profiler adds one
_DAY = 86_400  # seconds


def fsync_folder(folder: Path) -> None:
    """Sync `folder`, so that a rename in it survives a power cut. Do nothing on Windows, whose NTFS has a journal."""
    if WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents like `mkdir -p`, and sync them, so that they survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # some folders can be written but not read
        fsync_folder(folder.parent)


def clear_temporaries(folder: Path) -> None:
    """Remove temporary files that killed processes left in `folder`, while no other process writes there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if (found := _TEMPORARY.fullmatch(path.name)) and (path.is_file() or _is_abandoned(path, found)):
            _remove(path)


def temporary_for(path: Path) -> Path:
    """Return the temporary path at which this process may build `path`: `.NAME.BOOT.PID.tmp` in the same folder."""
    return path.with_name(f".{path.name}.{_here()}.{os.getpid()}.tmp")


def require_place(path: Path) -> None:
    """Raise OSError if the file `path` can't be written. Call this before a long computation whose result goes there.

    Create the folder of `path` if it is missing.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        with atomic_write(path):
            raise _Writable
    except _Writable:
        return


class _Writable(Exception):
    """Raised by `require_place` to leave `atomic_write` without changing the file, once it is known to be writable."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces `path` only once it is complete and on the disk.

    The temporary file is next to `path`, so the rename never crosses file systems. It is removed if the body raises.
    Raises OSError if the folder can't be written.
    """
    temporary = temporary_for(path)
    _clear_abandoned(path)
    try:
        with temporary.open("wb", buffering=_BUFFER) as file:
            yield file
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this, too
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(
                path
            )  # a write's error names no file or the temporary one, which means nothing to users
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write the file `path` and others beside it: yield an empty temporary folder in which to write them.

    When the context ends without an error, the files are synced to the disk and moved to the folder of `path`. The file
    `path` itself is moved last: if it exists, so do the others. Raises OSError if the folder can't be written.
    """
    temporary = temporary_for(path)
    _clear_abandoned(path)
    try:
        temporary.mkdir()
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda each: each.name == path.name)
        for each in files:
            with each.open("r+b") as file:  # Windows syncs only files that are open for writing
                sync_file(file.fileno())
        for each in files:
            each.replace(path.parent / each.name)
    finally:
        try:
            temporary.rmdir()  # needs no file descriptor, as there may be none left
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
    fsync_folder(path.parent)


def _clear_abandoned(path: Path) -> None:
    for temporary in _abandoned_in(path.parent).pop(path.name, ()):
        with contextlib.suppress(OSError):
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=64)
def _abandoned_in(folder: Path) -> dict[str, list[Path]]:
    """Return the temporary files that ended processes left in `folder`, by final name. The result is cached."""
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError):  # the write that follows reports what is wrong with the folder
        for path in folder.iterdir():
            if (match := _TEMPORARY.fullmatch(path.name)) and _is_abandoned(path, match):
                found.setdefault(match[1], []).append(path)
    return found


def _is_abandoned(path: Path, name: re.Match[str]) -> bool:
    """Return whether no process writes the temporary file any more.

    For a file of another machine or container this is a guess by its age: more than a day.
    """
    if name[2] == _here():
        return not is_running(int(name[3]))
    return time.time() - path.stat().st_mtime > _DAY


@functools.cache
def _here() -> str:
    """Return 8 hex digits that identify this boot of this machine or container. Process ids are unique within it."""
    try:
        boot, container = Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        boot, container = platform.node(), 0
    return f"{zlib.crc32(f'{boot} {container}'.encode()):08x}"


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to the file `path` atomically, as `atomic_write` does. Raises OSError."""
    with atomic_write(path) as file:
        file.write(data)
