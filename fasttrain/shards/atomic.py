"""Files that are either whole or absent: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_AT_ONCE = 1 << 20  # bytes: a checkpoint's hundreds of small tensors go out together
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp(\.tmp)?")  # torch's profiler has one of its own for what it writes


def fsync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """`mkdir -p` that survives a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # one may write in some folders and not look into them
        fsync_folder(folder.parent)


def clear_temporaries(folder: Path) -> None:
    """Removes what killed processes left of `atomic_write`; for a folder in which nobody else writes now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if (found := _TEMPORARY.fullmatch(path.name)) and not (path.is_dir() and _runs(int(found[2]))):
            _remove(path)


def require_place(path: Path) -> None:
    """Raises OSError where `path` can't be written: to be known before the work is done, and not after it."""
    make_folder(path.parent)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        with atomic_write(path):
            raise _Tried
    except _Tried:
        return


class _Tried(Exception):
    """The file could be made, and is removed again."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yields a binary file that takes `path`'s place only once it is whole and on the disk.

    The temporary lies beside `path` (`.NAME.PID.tmp`), so the rename never crosses file systems; it is
    removed when the body raises. Raises OSError where the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _clear_left_behind(path)
    try:
        with temporary.open("wb", buffering=_AT_ONCE) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this, too
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a write's error names no file, and nobody knows the temporary
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; the files in it take their places there once all are on the disk.

    `path` itself comes last: where it is, so are the others. Raises OSError where the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _clear_left_behind(path)
    try:
        temporary.mkdir()
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda each: each.name == path.name)
        for each in files:
            with each.open("rb") as file:
                os.fsync(file.fileno())
        for each in files:
            each.replace(path.parent / each.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_folder(path.parent)


def _clear_left_behind(path: Path) -> None:
    for temporary in _left_behind(path.parent).pop(path.name, ()):
        with contextlib.suppress(OSError):
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=64)
def _left_behind(folder: Path) -> dict[str, list[Path]]:
    """Temporaries of processes that are no more, by the name that they were to take; looked for once a folder."""
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError):  # the write itself says what is wrong with the folder
        for path in folder.iterdir():
            if (match := _TEMPORARY.fullmatch(path.name)) and not _runs(int(match[2])):
                found.setdefault(match[1], []).append(path)
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """`atomic_write` for bytes already in hand."""
    with atomic_write(path) as file:
        file.write(data)
