"""Errors for people: one line each, and the exit code the command line ends with."""

from __future__ import annotations


class FasttrainError(Exception):
    """Base of every error that fasttrain raises on purpose; `exit_code` is the process's."""

    exit_code = 1


class UserError(FasttrainError):
    """What the user can mend. The message is one line: the file, the value, the mend."""

    exit_code = 2


class Diverged(UserError):
    """The loss is no longer a finite number."""


class InternalError(FasttrainError):
    """A fault of ours."""

    exit_code = 1


class Stopped(FasttrainError):
    """The run was stopped and can be resumed (SIGTERM, `--limit-batches` excluded)."""

    exit_code = 75
