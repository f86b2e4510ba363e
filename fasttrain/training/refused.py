"""A run that the machine stops: its disk full, its memory used up, …"""

from __future__ import annotations

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.errors import UserError, mendable


def refused(error: Exception, folder: RunFolder) -> UserError | None:
    """What the machine refused, in one line with how to go on; None where `error` is something else."""
    said = error if isinstance(error, UserError) and isinstance(error.__cause__, OSError) else mendable(error)
    if said is None or not _resumable(folder):
        return None if said is error else said
    return type(said)(f"{said}; then go on with: fasttrain train --resume {folder.path}")


def _resumable(folder: RunFolder) -> bool:
    return folder.checkpoints.is_dir() and any(folder.checkpoints.glob("[!.]*"))
