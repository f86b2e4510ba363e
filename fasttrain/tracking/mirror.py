"""`Mirror`, the base class of all trackers but MLflow. Each delivers what the run's folder holds in its own thread."""

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

OPEN_TIMEOUT = 10.0  # seconds that a run's summary waits for a tracker to open the run
FINISH_TIMEOUT = 60.0  # seconds that the end of a run waits for a tracker
_KILLED_S = 20.0  # the same for a run that was stopped and will be resumed
_FAILING_S = 5.0  # the same for a tracker whose last attempt failed
_FIRST_RETRY_S, _RETRY_S = 1.0, 30.0  # seconds between attempts: the first, doubled each time up to the second


class Mirror(ABC):
    """Delivers one run to a tracker. Training never waits for the delivery, and continues if the delivery fails.

    A thread delivers what is new in the run's record (`tracking.json`) and folder. Each process of a resumed run
    delivers all epochs from the first, because `history.json` has all of them. So a tracker must accept epochs that it
    already has, and must not store them twice.
    """

    title: ClassVar[str]
    """The tracker's display name."""

    needs: ClassVar[tuple[str, ...]]
    """The modules that the tracker imports. The extra with the tracker's name installs them."""

    def __init__(self, record: Record, report: Callable[[str], None]) -> None:
        self.record, self.report = record, report
        self._delivered: set[str] = set()
        self._opened = self._failure_reported = False
        self._open_attempted = threading.Event()  # set after the first attempt to open the run
        self._failures = self._notifications = 0
        self._status: str | None = None
        self._abandoned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"fasttrain-{self.title}", daemon=True)

    @abstractmethod
    def open(self) -> None:
        """Open a new run at the tracker, or for a resumed run the tracker's run that it began with."""

    @abstractmethod
    def write(self, entries: Sequence[Entry]) -> None:
        """Deliver `entries` to the tracker."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End the run with `status`: "FINISHED", "FAILED" or "KILLED"."""

    @abstractmethod
    def place(self) -> str:
        """Return where people find the open run: a URL, or a shell command that shows it."""

    def where(self) -> str:
        """Return `place()`, or "not opened yet". Waits at most `OPEN_TIMEOUT` seconds for the run to be opened."""
        self._open_attempted.wait(OPEN_TIMEOUT)
        self._open_attempted.set()  # later calls don't wait again
        return self.place() if self._opened else "not opened yet"

    def start(self) -> None:
        """Start the thread that delivers the run to the tracker."""
        self._thread.start()

    def notify(self) -> None:
        """Tell the thread that an entry was added to the record, or a file to the run folder."""
        with self._changed:
            self._notifications += 1
            self._changed.notify()

    def finish(self, status: str) -> None:
        """Tell the thread that the run has ended with `status`. Call `wait` to wait for it."""
        with self._changed:
            self._status = self._status or status
            self._changed.notify()

    def wait(self) -> None:
        """Wait until the tracker has everything. After a time-out, report that it lacks the end of the run."""
        began = time.monotonic()
        limit = _KILLED_S if self._status == "KILLED" else FINISH_TIMEOUT
        while self._thread.is_alive() and time.monotonic() - began < (
            min(limit, _FAILING_S) if self._failures else limit
        ):
            self._thread.join(0.05)
        with self._changed:
            self._abandoned = True
            self._changed.notify()
        if self._thread.is_alive() or self._failures:
            self.report(
                f"{self.title} lacks the end of the run, which {self.record.folder} keeps; resume the run to deliver it"
            )

    def _work(self) -> None:
        """Deliver whatever is new, until the run has ended or `wait` has given up."""
        while not self._abandoned:
            seen, status = self._notifications, self._status
            try:
                if not self._opened:
                    self.open()
                    self._opened = True
                    self._open_attempted.set()
                if entries := [each for each in self.record.entries() if each.key not in self._delivered]:
                    self.write(entries)
                    self._delivered |= {each.key for each in entries}
                if status is not None:
                    self.close(status)
                    self._failures = 0
                    return
                self._failures = 0
            except Exception as error:  # the tracker's own errors, and OSError
                self._wait_to_retry(error, status)
                continue
            with self._changed:
                self._changed.wait_for(
                    lambda: self._notifications != seen or self._status != status or self._abandoned  # noqa: B023
                )

    def _wait_to_retry(self, error: Exception, status: str | None) -> None:
        """Report the first failure, and wait until the next attempt."""
        self._failures += 1
        self._open_attempted.set()
        if not self._failure_reported:
            self._failure_reported = True
            self.report(f"{self.title} fails ({reason(error)}); the run continues, and its folder keeps all data")
        pause = min(_FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 30), _RETRY_S)
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or self._status != status, pause)


def shorter_path(path: Path) -> str:
    """Return `path` from the root or from the working directory, whichever is shorter."""
    return min(str(path.resolve()), relative_path(path), key=len)
