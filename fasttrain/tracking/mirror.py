"""`Mirror`: base of the trackers beside MLflow. A thread of its own brings them what the run's folder holds."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from fasttrain.machine import relative_path
from fasttrain.tracking.record import Entry, Record
from fasttrain.tracking.sync import reason

OPEN_TIMEOUT = 10.0  # seconds that a run's summary waits for a tracker to say where the run is
FINISH_TIMEOUT = 60.0  # seconds that a run's end waits for a tracker
_KILLED_S = 20.0  # the same for a run that is stopped, and will be resumed
_AWAY_S = 5.0  # the same for a tracker that failed the last time
_FIRST_RETRY_S, _RETRY_S = 1.0, 30.0


class Mirror(ABC):
    """Brings one run to a tracker, without ever making training wait or fail.

    Each process brings everything once, since `history.json` has all epochs of a resumed run. A tracker must take an
    epoch that it has already, and keep it once.
    """

    title: ClassVar[str]
    """The tracker's name for people."""

    needs: ClassVar[tuple[str, ...]]
    """Modules that the extra of the tracker's name installs."""

    def __init__(self, record: Record, report: Callable[[str], None]) -> None:
        self.record, self.report = record, report
        self._delivered: set[str] = set()
        self._opened = self._told = False
        self._tried = threading.Event()  # to open the run, with whatever end
        self._failures = self._news = 0
        self._status: str | None = None
        self._left = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"fasttrain-{self.title}", daemon=True)

    @abstractmethod
    def open(self) -> None:
        """Open the run at the tracker: a new one, or the one that a resumed run had."""

    @abstractmethod
    def write(self, entries: Sequence[Entry]) -> None:
        """Bring `entries` to the tracker."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""

    @abstractmethod
    def place(self) -> str:
        """Return where people find the open run: an address, or a command."""

    def where(self) -> str:
        """Return `place`, once the tracker has opened the run; wait for that, for a while only."""
        self._tried.wait(OPEN_TIMEOUT)
        self._tried.set()  # it was waited for: never again
        return self.place() if self._opened else "not yet made"

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Say that the record, or the folder, has something new."""
        with self._changed:
            self._news += 1
            self._changed.notify()

    def finish(self, status: str) -> None:
        """Say that the run has ended; `wait` waits for the tracker."""
        with self._changed:
            self._status = self._status or status
            self._changed.notify()

    def wait(self) -> None:
        """Wait until the tracker has everything, for a while only. Report what it lacks."""
        began = time.monotonic()
        limit = _KILLED_S if self._status == "KILLED" else FINISH_TIMEOUT
        while self._thread.is_alive() and time.monotonic() - began < (min(limit, _AWAY_S) if self._failures else limit):
            self._thread.join(0.05)
        with self._changed:
            self._left = True
            self._changed.notify()
        if self._thread.is_alive() or self._failures:
            self.report(
                f"{self.title} lacks the end of the run; {self.record.folder} has it: resume the run to bring it"
            )

    def _work(self) -> None:
        while not self._left:
            seen, status = self._news, self._status
            try:
                if not self._opened:
                    self.open()
                    self._opened = True
                    self._tried.set()
                if entries := [each for each in self.record.entries() if each.key not in self._delivered]:
                    self.write(entries)
                    self._delivered |= {each.key for each in entries}
                if status is not None:
                    self.close(status)
                    self._failures = 0
                    return
                self._failures = 0
            except Exception as error:  # a tracker's own, OSError
                self._fail(error, status)
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._news != seen or self._status != status or self._left)  # noqa: B023

    def _fail(self, error: Exception, status: str | None) -> None:
        """Report the first failure, and wait until it is time to try again."""
        self._failures += 1
        self._tried.set()
        if not self._told:
            self._told = True
            self.report(f"{self.title} fails ({reason(error)}); the run goes on, and its folder keeps everything")
        pause = min(_FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 30), _RETRY_S)
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._status != status, pause)


def shorter_path(path: Path) -> str:
    """Return the path from the root or from the working directory, whichever is shorter."""
    return min(str(path.resolve()), relative_path(path), key=len)
