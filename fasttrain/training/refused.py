"""Errors of the machine that end a run, such as a full disk or no memory."""

from __future__ import annotations

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.errors import UserError, fixable


def refused(error: Exception, folder: RunFolder) -> UserError | None:
    """Return an error of one line that says what the machine refused and how to resume. None for any other `error`."""
    reason = error if isinstance(error, UserError) and isinstance(error.__cause__, OSError) else fixable(error)
    if reason is None or not _resumable(folder):
        return None if reason is error else reason
    return type(reason)(f"{reason}; then resume with: fasttrain train --resume {folder.path}")


def _resumable(folder: RunFolder) -> bool:
    return folder.checkpoints.is_dir() and any(folder.checkpoints.glob("[!.]*"))
