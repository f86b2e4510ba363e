"""The lock on a run's folder: one process trains in it, or brings it to a store."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

LOCK = ".tracking.lock"


class FolderLock:
    """Held by the one process that trains in a run's folder, or brings it to a store.

    It locks a file in the folder, as NFS knows no locks on folders. Where the file system has no locks, or the folder
    can't be written, `take` always succeeds.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Return whether it is ours, without waiting."""
        if self._descriptor is not None:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            pass
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # forked workers have the descriptor, too
            os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process trains in `folder`, or brings it to a store; False where that can't be told."""
    if not (folder / LOCK).exists():
        return False
    lock = FolderLock(folder)
    try:
        return not lock.take()
    finally:
        lock.release()
