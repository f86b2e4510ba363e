"""Write checkpoints in the background."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.file import save_checkpoint
from fasttrain.checkpoint.folder import checkpoint_path, remove_old
from fasttrain.checkpoint.packing import snapshot

_COPIES = ("best", "average", "initial")
"""The parts of a run's state that training never changes, so that they needn't be copied."""


class CheckpointWriter:
    """Writes checkpoints into the run folder `run` from a thread, one at a time, and keeps the newest `keep` of them.

    If writing fails, the next call of any method raises the error.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._run, self._keep = run, keep
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._path: Path | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Wait until the previous checkpoint is on the disk, then copy `state` and start to write the copy.

        `state`: the run's state, with the number of optimizer steps as "step".
        """
        self.wait()
        copied = {name: each if name in _COPIES else snapshot(each) for name, each in state.items()}
        path = checkpoint_path(self._run, copied["step"])
        # A daemon thread: a second Ctrl-C does not wait for the disk.
        self._thread = threading.Thread(target=self._write, args=(path, copied), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error if writing has failed. Return at once if a checkpoint is still being written."""
        if self._thread is None or not self._thread.is_alive():
            self.wait()

    def wait(self) -> Path | None:
        """Wait until the last checkpoint is on the disk. Return its path, or None if there is none."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self._path

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        try:
            save_checkpoint(path, state)
            self._path = path
            remove_old(path, self._keep)
        except BaseException as error:  # raised by the run's next call
            self._failure = error
