"""`Tracker`: one MLflow run that never makes training wait.

A thread imports MLflow, which takes seconds, and delivers the run's folder to the store whenever there is something
new. It retries while the store can't be reached. What the store lacks at the end stays in the folder. The next run in
a folder beside it delivers it, and so does `fasttrain runs --deliver`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from fasttrain.errors import Stopped
from fasttrain.files import make_folder
from fasttrain.text import counted
from fasttrain.tracking.begin import begin_record
from fasttrain.tracking.lock import FolderLock
from fasttrain.tracking.record import Record
from fasttrain.tracking.store import configured_uri, is_remote, set_environment, shown
from fasttrain.tracking.sync import Busy, Sync, reason, sync_beside

FINISH_TIMEOUT = 60.0  # seconds that the end of a run waits for the store
RUN_TIMEOUT = 30.0  # seconds that a run waits for its id
_FIRST_RETRY_S, _RETRY_S = 1.0, 30.0  # seconds between attempts: the first, doubled each time up to the second
_FAILING_S = 5.0  # seconds that the end of a run waits for a store whose last request failed
_DELAY_S = 30.0  # seconds after which a delayed run begins to sync without its first step
_KILLED_S, _KILLED_FAILING_S = 20.0, 2.0  # FINISH_TIMEOUT and _FAILING_S of a stopped run


class NullTracker:
    """A tracker that does nothing, and the base class of `Tracker` and the other trackers.

    `run_id`, `uri`: the run's id in MLflow, and its store. `uuid`: the run's identity in its record on this
    machine, the same for all trackers. `places`:
    where people find the run at each tracker but MLflow, by the tracker's name. Leaving the `with` block calls
    `finish`.
    """

    run_id: str | None = None
    uri: str | None = None
    uuid: str | None = None
    places: Mapping[str, str] = MappingProxyType({})  # a URL or command for each other tracker
    _finished = False

    def begin(self) -> None:
        """Do nothing."""

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        """Return None, because there is no run."""
        return None

    def sync(self) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Do nothing."""

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        """End the run. A second call does nothing."""
        self._finished = True

    def __enter__(self) -> NullTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        status = status_of(error)
        if status == "FAILED":
            self.set_tags({"error": f"{type(error).__name__}: {error}"})
        self.finish(status)


class Tracker(NullTracker):
    """A run in MLflow. `start` begins it; `finish`, or leaving its `with` block, ends it.

    The block ends the run as FINISHED if there is no error. It is KILLED after KeyboardInterrupt, Stopped, or the
    SystemExit of a signal, and FAILED after any other error, with the error in the tag `error`.
    """

    def __init__(self, record: Record, uri: str, run_id: str | None, report: Callable[[str], None]) -> None:
        self.uri = shown(uri)
        self.run_id = run_id
        self.uuid = record.uuid
        self.record = self._record = record
        self._lock = FolderLock(record.folder)
        self._sync = Sync(record, uri, report, run_id=run_id)
        self._report = report
        self._reported: set[str] = set()
        self._finished = False
        self._changes = self._changes_seen = 0
        self._begun = threading.Event()
        self._abandoned = threading.Event()
        self._delivered = threading.Event()
        self._failures = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="fasttrain-mlflow", daemon=True)

    @staticmethod
    def start(
        experiment: str | None,
        run_name: str | None,
        params: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        *,
        folder: Path,
        uri: str | None = None,
        run_id: str | None = None,
        uuid: str | None = None,
        report: Callable[[str], None] | None = None,
        delayed: bool = False,
    ) -> Tracker:
        """Start the run in `folder`, or continue the one that `tracking.json` in `folder` records.

        `run_id`, `uuid`: for a folder without a record, the MLflow run to continue: the one of that id, or else the one
        with that UUID in a tag.

        `experiment`, `run_name`: by default MLflow's variables MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, and
        MLFLOW_RUN_NAME; without these "fasttrain" and the folder's name. If MLFLOW_RUN_ID is set, a new run is recorded
        in the MLflow run of that ID, as `mlflow run` expects.

        `params`: settings, any number and length. A continued run keeps its earlier settings in MLflow, and gets the
        tag `changed.NAME` for each setting that differs now. `folder`: the run folder. Earlier runs in the folders
        beside it are delivered, too, if the same store has not received them completely.

        `uri`: MLflow's tracking URI; by default the store where the run was tracked before, else $MLFLOW_TRACKING_URI,
        else `mlflow.db` in the working directory, with artifacts beside it in `mlartifacts`. `report`: receives one
        line for each kind of problem, from another thread; by default it is logged. `delayed`: import MLflow, which
        takes seconds of CPU time, only after `begin` or half a minute.

        This returns at once, whatever the store does. `run_id` is known a few seconds later. MLflow's time-outs,
        retries and telemetry are set in os.environ, unless the user has set them.
        """
        set_environment()
        report = report or logging.getLogger("fasttrain").warning
        record, is_new = begin_record(experiment, run_name, params, tags, folder=folder, uuid=uuid, report=report)
        if is_new and uuid is None and run_id is None:
            run_id = os.environ.pop("MLFLOW_RUN_ID", None)  # removed, as MLflow does, so that it isn't used twice
        record.mlflow = True
        configured = uri or configured_uri()
        # The record has no passwords, so the configured URI is used if both are the same store.
        if uri is None and record.uri is not None and record.run_id and record.uri != shown(configured):
            configured = record.uri
        if record.uri == shown(configured):
            run_id = record.run_id or run_id
        else:
            record.uri, record.run_id, record.delivered = shown(configured), None, []
        with suppress(OSError):  # saving the record reports it
            make_folder(folder)
        tracker = Tracker(record, configured, run_id, report)
        tracker._lock.take()
        tracker._save()
        if delayed:
            tracker._begun.clear()
        tracker._thread.start()
        return tracker

    def begin(self) -> None:
        """Begin to deliver a run that was started with `delayed`."""
        self._begun.set()

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        """Return the run's id in the store, or None if it is not known in time.

        Waits at most `timeout` seconds (default: `RUN_TIMEOUT`). After a call that waited in vain, later calls don't
        wait.
        """
        self.begin()
        if not self._sync.connected.wait(RUN_TIMEOUT if timeout is None else timeout):
            self._sync.connected.set()
        self.run_id = self._sync.run_id or self.run_id
        return self.run_id

    def sync(self) -> None:
        """Have what is new in the folder's `history.json` and `evaluation.json` delivered. Don't wait for the store."""
        self._record.catch_up()
        self._save()

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log `metrics` of `step` that neither `history.json` nor `evaluation.json` in the folder holds.

        Values are anything that `float()` accepts, including NaN. A value that the run logged at the same step before
        it was resumed is not logged again.
        """
        self._record.log_metrics(metrics, step)
        self._save()

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Log the files at `paths`, which are in the run folder. Call this after writing the files."""
        self._record.log_artifacts(paths)
        self._save()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run. Values are converted to text and cut to the 8,000 characters that MLflow allows.

        This does not begin a run that was started with `delayed`, because tags are also set before its first step.
        """
        self._record.set_tags(tags)
        self._save(begin=False)

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        """End the run with `status` ("FINISHED", "FAILED" or "KILLED"), and wait until the store has everything.

        Waits at most `timeout` seconds (default: `FINISH_TIMEOUT`), and only a few seconds for a store that fails. If
        the store still lacks entries, a line is reported, and the run folder keeps the entries. A second call does
        nothing.
        """
        if self._finished:
            return
        self._record.end(status)
        self._save()
        with self._changed:
            self._finished = True
            self._changed.notify()
        try:
            self._wait(status == "KILLED", FINISH_TIMEOUT if timeout is None else timeout)
        finally:
            self._abandoned.set()  # the thread ends after its current request
            with self._changed:
                self._changed.notify()
        missing = None
        with suppress(OSError, ValueError):
            missing = len(self._sync.missing())
        if self._delivered.is_set() and not missing:
            if "failing" in self._reported:
                self._report(f"MLflow: {self.uri} works again and has everything")
            return
        why = f" ({reason(self._failure)})" if self._failure else ""
        lacks = f"lacks {counted(missing, 'entry', 'entries')}" if missing else "may lack entries"
        self._report(
            f"MLflow: {self.uri} {lacks}{why}; the run folder keeps what is missing until the next run in a folder "
            f"beside it, or until: fasttrain runs --deliver {self._record.folder}"
        )

    def __enter__(self) -> Tracker:
        return self

    def _save(self, *, begin: bool = True) -> None:
        if self._finished:
            raise RuntimeError("the MLflow run has ended, so it is too late to log anything")
        self._record.save()
        if problem := self._record.problem:
            self._report_once(
                "record",
                f"the record for the MLflow store can't be saved ({problem}); the run continues, but what the store "
                "has not received at the end of the run is lost",
            )
        if begin:
            self.begin()
        with self._changed:
            self._changes += 1
            self._changed.notify()

    def _report_once(self, kind: str, line: str) -> None:
        """Report `line`, unless a problem of the same kind was reported before."""
        if kind not in self._reported:
            self._reported.add(kind)
            self._report(line)

    def _work(self) -> None:
        """Deliver whatever is new, until the run has ended or `finish` has given up."""
        beside: threading.Thread | None = None
        self._begun.wait(_DELAY_S)
        while not self._abandoned.is_set():
            self._changes_seen, finished = self._changes, self._finished
            try:
                if not self._lock.take():
                    raise Busy("another process is delivering this run")
                self._sync.push()
            except Exception as error:  # errors of MLflow, requests or SQLAlchemy, and OSError: all mean "try later"
                if not (finished and self._only_refused_missing()):
                    self._wait_to_retry(error)
                    continue
            self.run_id = self._sync.run_id
            self._failures = 0
            if not self._only_refused_missing():  # an entry was refused, and is sent again before it is left out
                with self._changed:
                    self._changed.wait_for(self._abandoned.is_set, _FIRST_RETRY_S)
                continue
            if beside is None:
                beside = self._sync_beside()
            if finished:
                self._delivered.set()
                break
            with self._changed:
                self._changed.wait_for(
                    lambda: self._changes != self._changes_seen or self._finished or self._abandoned.is_set()
                )
        self._lock.release()

    def _only_refused_missing(self) -> bool:
        """Return whether the store lacks nothing but entries that it has refused too often."""
        with suppress(OSError, ValueError):
            return not self._sync.missing(refused=False)
        return False

    def _wait_to_retry(self, error: Exception) -> None:
        """Report a store that has failed twice in a row, and wait until the next attempt."""
        self._failures += 1
        self._failure = error
        self._sync.connected.set()
        if self._failures > 1 and not isinstance(error, Busy) and not self._only_refused_missing():
            kept = f"the run continues, and {self._record.folder} keeps everything until the store works again"
            self._report_once("failing", f"MLflow: {self.uri} fails ({reason(error)}); {kept}")
        was_finished = self._finished
        pause = _FIRST_RETRY_S if was_finished else min(_FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 30), _RETRY_S)
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned.is_set() or self._finished != was_finished, pause)

    def _sync_beside(self) -> threading.Thread:
        """Start a thread that delivers the undelivered runs in the folders beside this run's."""
        arguments = (self._record.folder, self._sync.uri, self._report, lambda: not self._finished)
        thread = threading.Thread(target=sync_beside, args=arguments, name="fasttrain-mlflow-beside", daemon=True)
        thread.start()
        return thread

    def _wait(self, killed: bool, timeout: float) -> None:
        """Wait until everything is delivered, but less long for a store that fails or a run that was stopped."""
        began = time.monotonic()
        while self._thread.is_alive():
            asked_at, now = self._sync.asked_at, time.monotonic()
            silent = is_remote(self._sync.uri) and asked_at is not None and now - asked_at > _KILLED_FAILING_S
            failing = self._failures > 0 or (killed and silent)
            limits = (_KILLED_S, _KILLED_FAILING_S) if killed else (timeout, _FAILING_S)
            if now - began > min(timeout, limits[failing]):
                return
            self._thread.join(0.05)


def status_of(error: BaseException | None) -> str:
    """Return the status that MLflow gives a run whose `with` block was left with `error`.

    None and SystemExit with code 0 mean "FINISHED". KeyboardInterrupt, Stopped and SystemExit with code 75, 130 or 143
    mean "KILLED". Anything else means "FAILED".
    """
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return "KILLED"
    if isinstance(error, SystemExit) and error.code in (75, 130, 143):
        return "KILLED"
    return "FAILED"
