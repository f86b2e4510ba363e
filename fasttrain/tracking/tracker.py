"""`Tracker`: one MLflow run that never makes training wait.

A thread imports MLflow (seconds) and syncs the run's folder with the store whenever there is news, again and again
where the store is away. What it lacks at the end stays in the folder, for the next run beside it or for
`fasttrain runs --deliver`.
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
from uuid import uuid4

from fasttrain.errors import Stopped
from fasttrain.files import make_folder
from fasttrain.tracking.lock import FolderLock
from fasttrain.tracking.record import RECORD, RUNNING, Record
from fasttrain.tracking.store import configured_uri, is_remote, set_environment, shown
from fasttrain.tracking.sync import Busy, Sync, reason, sync_beside

FINISH_TIMEOUT = 60.0  # seconds that a run's end waits for its store
RUN_TIMEOUT = 30.0  # seconds that a run waits for its id
EXPERIMENT = "fasttrain"  # where nothing says which
_FIRST_RETRY_S, _RETRY_S = 1.0, 30.0  # between two tries: twice as long each time
_AWAY_S = 5.0  # how long the end of a run waits for a store that failed the last time it was asked
_DELAY_S = 30.0  # how long a delayed run waits for its first step
_KILLED_S, _KILLED_AWAY_S = 20.0, 2.0  # the same for a run that is stopped, and will be resumed


class NullTracker:
    """Tracks nothing, with `Tracker`'s interface."""

    run_id: str | None = None
    uri: str | None = None
    uuid: str | None = None
    places: Mapping[str, str] = MappingProxyType({})  # where the run is at trackers besides MLflow
    _finished = False

    def begin(self) -> None:
        """Do nothing."""

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        """Return the run's id; None here."""
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
        """End the run; a second call does nothing."""
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
    """A run in MLflow; made by `start`, ended by `finish` or by leaving its `with` block.

    The block ends the run as FINISHED, as KILLED on KeyboardInterrupt, Stopped and SystemExit by a signal,
    else as FAILED (with the tag `error`).
    """

    def __init__(self, record: Record, uri: str, run_id: str | None, report: Callable[[str], None]) -> None:
        self.uri = shown(uri)
        self.run_id = run_id
        self.uuid = record.uuid
        self.record = self._record = record
        self._lock = FolderLock(record.folder)
        self._sync = Sync(record, uri, report, run_id=run_id)
        self._report = report
        self._told: set[str] = set()
        self._finished = False
        self._news = self._seen = 0
        self._begun = threading.Event()
        self._left = threading.Event()
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
        """Start a run, or continue the one that the folder's `tracking.json`, `run_id` or `uuid` names.

        `experiment`, `run_name`: default: MLflow's variables MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, and
        MLFLOW_RUN_NAME, else "fasttrain" and the folder's name. A new run takes the place of MLFLOW_RUN_ID, as
        `mlflow run` asks for. `folder`: the run's own. What runs in the folders beside it could not deliver to this
        store is delivered now, too.

        `uri`: MLflow's tracking URI; default: where the run was tracked before, else $MLFLOW_TRACKING_URI, else
        `mlflow.db` in the working directory (artifacts beside it, in `mlartifacts`). `params`: any number, any length;
        a continued run keeps its own and gets the tag `changed.NAME` for each that differs. `report` takes one line
        for people, once for each thing that goes wrong, from another thread; default: the log. `delayed`: leave MLflow,
        whose import takes CPU seconds, alone until `begin`, for half a minute at most.

        Return at once, whatever the store does; `run_id` is known a few seconds later.
        Set MLflow's time-outs, retries and telemetry in os.environ, where the user has not.
        """
        set_environment()
        report = report or logging.getLogger("fasttrain").warning
        record, is_new = _load_record(folder, experiment, run_name, uuid, report)
        if is_new and uuid is None and run_id is None:
            run_id = os.environ.pop("MLFLOW_RUN_ID", None)  # as MLflow does, whose next run is another
        _begin(record, run_name, params, tags)
        record.mlflow = True
        configured = uri or configured_uri()
        # The record keeps no passwords, so the configured URI is taken where both mean the same store.
        if uri is None and record.uri is not None and record.run_id and record.uri != shown(configured):
            configured = record.uri
        if record.uri == shown(configured):
            run_id = record.run_id or run_id
        else:
            record.uri, record.run_id, record.delivered = shown(configured), None, []
        with suppress(OSError):  # the record's failure to be saved says so
            make_folder(folder)
        tracker = Tracker(record, configured, run_id, report)
        tracker._lock.take()
        tracker._save()
        if delayed:
            tracker._begun.clear()
        tracker._thread.start()
        return tracker

    def begin(self) -> None:
        """Begin to sync a run that was started `delayed`."""
        self._begun.set()

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        """Return the run's id in the store.

        Waits at most `timeout` seconds (`RUN_TIMEOUT`), over all calls together, and returns the id known by then.
        """
        self.begin()
        if not self._sync.connected.wait(RUN_TIMEOUT if timeout is None else timeout):
            self._sync.connected.set()
        self.run_id = self._sync.run_id or self.run_id
        return self.run_id

    def sync(self) -> None:
        """Bring what is new in the folder (`history.json`, `evaluation.json`) to the store, without waiting for it."""
        self._record.catch_up()
        self._save()

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log numbers (anything `float()` takes, NaN included) that no file of the folder holds, at `step`.

        A value that the run logged before it was resumed, at the same step, isn't logged again.
        """
        self._record.log_metrics(metrics, step)
        self._save()

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Log files that lie in the run's folder, once they are there."""
        self._record.log_artifacts(paths)
        self._save()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run; values as text, cut at MLflow's 8,000 characters.

        They don't begin to sync a run that was started `delayed`: they are set before its first step, too.
        """
        self._record.set_tags(tags)
        self._save(begin=False)

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        """End the run (FINISHED, FAILED, KILLED) and wait, at most `timeout` seconds (`FINISH_TIMEOUT`), for the
        store to have all; a few seconds only for one that is away.

        A second call does nothing. What isn't delivered by then is reported, and stays in the folder.
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
            self._left.set()  # the thread ends after the request it is in
            with self._changed:
                self._changed.notify()
        missing = None
        with suppress(OSError, ValueError):
            missing = len(self._sync.missing())
        if self._delivered.is_set() and not missing:
            if "away" in self._told:
                self._report(f"MLflow: {self.uri} has everything now")
            return
        why = f" ({reason(self._failure)})" if self._failure else ""
        if missing is not None:
            why = f" lacks {missing} entries{why}"
        self._report(
            f"MLflow: {self.uri}{why}; they are kept in {self._record.folder}, for the next run beside it or: "
            f"fasttrain runs --deliver {self._record.folder}"
        )

    def __enter__(self) -> Tracker:
        return self

    def _save(self, *, begin: bool = True) -> None:
        if self._finished:
            raise RuntimeError("the MLflow run is finished; this came too late")
        self._record.save()
        if problem := self._record.problem:
            self._tell("record", f"MLflow's state can't be kept ({problem}); the run continues without it")
        if begin:
            self.begin()
        with self._changed:
            self._news += 1
            self._changed.notify()

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._report(line)

    def _work(self) -> None:
        beside: threading.Thread | None = None
        self._begun.wait(_DELAY_S)
        while not self._left.is_set():
            self._seen, finished = self._news, self._finished
            try:
                if not self._lock.take():
                    raise Busy("another process is delivering it")
                self._sync.push()
            except Exception as error:  # MLflow's, requests', SQLAlchemy's, OSError: all mean "not now"
                if not (finished and self._has_all_it_takes()):
                    self._failed(error)
                    continue
            self.run_id = self._sync.run_id
            self._failures = 0
            if not self._has_all_it_takes():  # it refused something, which is tried again before it is left out
                with self._changed:
                    self._changed.wait_for(self._left.is_set, _FIRST_RETRY_S)
                continue
            if beside is None:
                beside = self._sync_beside()
            if finished:
                self._delivered.set()
                break
            with self._changed:
                self._changed.wait_for(lambda: self._news != self._seen or self._finished or self._left.is_set())
        self._lock.release()

    def _has_all_it_takes(self) -> bool:
        with suppress(OSError, ValueError):
            return not self._sync.missing(refused=False)
        return False

    def _failed(self, error: Exception) -> None:
        """Wait until it is time to try again."""
        self._failures += 1
        self._failure = error
        self._sync.connected.set()
        if self._failures > 1 and not isinstance(error, Busy) and not self._has_all_it_takes():
            kept = f"the run goes on, and {self._record.folder} keeps everything until it works again"
            self._tell("away", f"MLflow: {self.uri} fails ({reason(error)}); {kept}")
        was_finished = self._finished
        pause = _FIRST_RETRY_S if was_finished else min(_FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 30), _RETRY_S)
        with self._changed:
            self._changed.wait_for(lambda: self._left.is_set() or self._finished != was_finished, pause)

    def _sync_beside(self) -> threading.Thread:
        arguments = (self._record.folder, self._sync.uri, self._report, lambda: not self._finished)
        thread = threading.Thread(target=sync_beside, args=arguments, name="fasttrain-mlflow-beside", daemon=True)
        thread.start()
        return thread

    def _wait(self, killed: bool, timeout: float) -> None:
        began = time.monotonic()
        while self._thread.is_alive():
            asked_at, now = self._sync.asked_at, time.monotonic()
            silent = is_remote(self._sync.uri) and asked_at is not None and now - asked_at > _KILLED_AWAY_S
            away = self._failures > 0 or (killed and silent)
            limits = (_KILLED_S, _KILLED_AWAY_S) if killed else (timeout, _AWAY_S)
            if now - began > min(timeout, limits[away]):
                return
            self._thread.join(0.05)


def begin_record(
    experiment: str | None,
    run_name: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None,
    *,
    folder: Path,
    uuid: str | None,
    report: Callable[[str], None],
) -> Record:
    """Return the record of a run that MLflow doesn't get, new or continued; the arguments are `Tracker.start`'s.

    A run that MLflow got before stays one that `fasttrain runs --deliver` brings to it.
    """
    record, is_new = _load_record(folder, experiment, run_name, uuid, report)
    if is_new:
        record.mlflow = False
    _begin(record, run_name, params, tags)
    with suppress(OSError):  # the record's failure to be saved says so
        make_folder(folder)
    return record


def _load_record(
    folder: Path, experiment: str | None, run_name: str | None, uuid: str | None, report: Callable[[str], None]
) -> tuple[Record, bool]:
    """Return the record in `folder`, or a new one, and whether it is new."""
    try:
        record = Record.load(folder / RECORD)
    except (OSError, ValueError) as error:
        report(f"MLflow: {folder / RECORD} can't be read ({error}); it is written anew")
        record = None
    if record is None:
        return _new_record(folder, experiment, run_name, uuid), True
    record.keep_final_metrics()
    return record, False


def _begin(record: Record, run_name: str | None, params: Mapping[str, Any], tags: Mapping[str, Any] | None) -> None:
    """Make the record that of a run that is going on."""
    record.params = {name: str(value) for name, value in params.items()}
    record.tags |= {name: str(value) for name, value in (tags or {}).items()}
    if run_name:
        record.tags["mlflow.runName"] = run_name
    record.status, record.ended, record.artifacts = RUNNING, None, []


def _new_record(folder: Path, experiment: str | None, run_name: str | None, uuid: str | None) -> Record:
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    number = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
    return Record(
        folder / RECORD,
        uuid or uuid4().hex,
        experiment=None if number else name or EXPERIMENT,
        experiment_id=number,
        run_name=run_name or os.environ.get("MLFLOW_RUN_NAME") or folder.resolve().name,
        params={},
        tags={},
        ready=not (folder / "history.json").exists(),
    )


def status_of(error: BaseException | None) -> str:
    """Return MLflow's RunStatus for what left the run's `with` block; exit codes 75, 130 and 143 mean KILLED."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return "KILLED"
    if isinstance(error, SystemExit) and error.code in (75, 130, 143):
        return "KILLED"
    return "FAILED"
