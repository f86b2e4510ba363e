"""The lock on a run's folder: only one process at a time trains in it or delivers it to a store."""

from __future__ import annotations

import os
from pathlib import Path

from fasttrain.machine import lock, unlock

LOCK = ".tracking.lock"


class FolderLock:
    """A lock on a run's folder, held by the process that trains in it or delivers it to a store.

    The lock is on a file in the folder, because NFS can't lock folders. If the file system has no locks, or the folder
    can't be written, `take` always succeeds.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Try to take the lock without waiting. Return whether this process holds it."""
        if self._descriptor is not None:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return True
        if not lock(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock if this object holds it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            unlock(descriptor)
            os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process trains in `folder` or delivers it to a store. Return False if that is unknown."""
    if not (folder / LOCK).exists():
        return False
    probe = FolderLock(folder)
    try:
        return not probe.take()
    finally:
        probe.release()
