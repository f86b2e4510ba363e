"""The lock on a run's folder: one process trains in it, or brings it to a store."""

from __future__ import annotations

import os
from pathlib import Path

from fasttrain.machine import lock, unlock

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
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return True
        if not lock(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            unlock(descriptor)
            os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process trains in `folder`, or brings it to a store; False where that can't be told."""
    if not (folder / LOCK).exists():
        return False
    ours = FolderLock(folder)
    try:
        return not ours.take()
    finally:
        ours.release()
