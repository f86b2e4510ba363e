"""Files that are either whole or absent: temporary name, fsync, rename, fsync of the folder."""

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

_AT_ONCE = 1 << 20  # bytes: a checkpoint's hundreds of small tensors go out together
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{8})\.(\d+)\.tmp(\.tmp)?")  # torch's profiler adds one
_DAY = 86_400  # seconds


def fsync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut. Windows opens no folders, and NTFS has a journal."""
    if WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_file(descriptor)
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
        if (found := _TEMPORARY.fullmatch(path.name)) and (path.is_file() or _is_left(path, found)):
            _remove(path)


def temporary_for(path: Path) -> Path:
    """Where this process may build `path`: `.NAME.PLACE.PID.tmp` beside it."""
    return path.with_name(f".{path.name}.{_here()}.{os.getpid()}.tmp")


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

    The temporary lies beside `path`, so the rename never crosses file systems; it is removed when the body raises.
    Raises OSError where the folder cannot be written.
    """
    temporary = temporary_for(path)
    _clear_left_behind(path)
    try:
        with temporary.open("wb", buffering=_AT_ONCE) as file:
            yield file
            file.flush()
            sync_file(file.fileno())
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
    temporary = temporary_for(path)
    _clear_left_behind(path)
    try:
        temporary.mkdir()
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda each: each.name == path.name)
        for each in files:
            with each.open("r+b") as file:  # Windows flushes only what may be written
                sync_file(file.fileno())
        for each in files:
            each.replace(path.parent / each.name)
    finally:
        try:
            temporary.rmdir()  # which takes no file descriptor, where there may be none
        except OSError:
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
            if (match := _TEMPORARY.fullmatch(path.name)) and _is_left(path, match):
                found.setdefault(match[1], []).append(path)
    return found


def _is_left(path: Path, name: re.Match[str]) -> bool:
    """Whether nobody writes the temporary any more. What another machine, or container, does can only be guessed."""
    if name[2] == _here():
        return not is_running(int(name[3]))
    return time.time() - path.stat().st_mtime > _DAY


@functools.cache
def _here() -> str:
    """This boot of this machine or container, within which a number is one process: 8 hex digits."""
    try:
        boot, container = Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        boot, container = platform.node(), 0
    return f"{zlib.crc32(f'{boot} {container}'.encode()):08x}"


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """`atomic_write` for bytes already in hand."""
    with atomic_write(path) as file:
        file.write(data)
