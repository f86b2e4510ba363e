"""`Tracker`: one MLflow run that never makes training wait and never loses what was logged.

Each call writes a line to the run's journal and returns; a thread imports MLflow (seconds) and brings the journal to
the store, again and again where that is away. What has not arrived by the end waits in the journal for the next run
beside it, or for `fasttrain runs --deliver`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from fasttrain.errors import Stopped
from fasttrain.tracking.delivery import Busy, Delivery, reason
from fasttrain.tracking.journal import JOURNAL, Journal
from fasttrain.tracking.store import is_remote, local_uri, set_environment, shown
from fasttrain.tracking.waiting import deliver_waiting

FINISH_TIMEOUT = 60.0  # seconds that a run's end waits for its store
RUN_TIMEOUT = 30.0  # seconds that a run waits for its id
_FIRST_RETRY_S, _RETRY_S = 1.0, 30.0  # between two tries: twice as long each time
_AWAY_S = 5.0  # how long the end of a run waits for a store that failed the last time it was asked
_KILLED_S, _KILLED_AWAY_S = 20.0, 2.0  # the same for a run that is stopped, and will be resumed


class NullTracker:
    """Tracks nothing, with `Tracker`'s interface."""

    run_id: str | None = None
    uri: str | None = None
    uuid: str | None = None
    fresh = False

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        """The run's id; None here."""
        return None

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Does nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Does nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Does nothing."""

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        """Does nothing."""

    def __enter__(self) -> NullTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing."""


class Tracker(NullTracker):
    """A run in MLflow; made by `start`, ended by `finish` or by leaving its `with` block.

    uuid: its journal's. fresh: whether nothing has been logged in it before `start`.

    The block ends the run as FINISHED, as KILLED on KeyboardInterrupt, Stopped and SystemExit by a signal,
    else as FAILED (with the tag `error`).
    """

    def __init__(self, journal: Journal, uri: str, run_id: str | None, report: Callable[[str], None]) -> None:
        self.uri = shown(uri)
        self.run_id = run_id
        self.fresh = journal.uuid is None and run_id is None
        self._journal = journal
        self._delivery = Delivery(journal, uri, run_id, report)
        self._report = report
        self._told: set[str] = set()
        self._finished = False
        self._left = threading.Event()
        self._delivered = threading.Event()
        self._failures = 0
        self._failure: Exception | None = None
        self._asked_at: float | None = None
        self._news = threading.Condition()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fasttrain-mlflow", daemon=True)

    @staticmethod
    def start(
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        *,
        journal: Path,
        uri: str | None = None,
        run_id: str | None = None,
        report: Callable[[str], None] | None = None,
    ) -> Tracker:
        """Starts a run, or continues the one that the journal or `run_id` names.

        `journal`: the folder to keep `tracking.jsonl` in, the run's own. What runs in the folders beside it could not
        deliver to this store is delivered now, too.

        `uri`: MLflow's tracking URI; default: where the journal was delivered to, else $MLFLOW_TRACKING_URI,
        else `mlflow.db` in the working directory (artifacts beside it, in `mlartifacts`). `params`: any
        number, any length; a continued run keeps its own and gets the tag `changed.NAME` for each that
        differs. `report` takes one line for people, once for each thing that goes wrong, from another thread;
        default: the log.

        Returns at once, whatever the store does; `run_id` is known a few seconds later.
        Sets MLflow's time-outs, retries and telemetry in os.environ, where the user has not.
        """
        set_environment()
        kept = Journal(journal / JOURNAL)
        before = kept.delivered
        configured = uri or os.environ.get("MLFLOW_TRACKING_URI") or local_uri()
        # The journal keeps no passwords, so the configured URI is taken where both mean the same store.
        elsewhere = uri is None and before is not None and before.uri != shown(configured)
        uri = before.uri if before is not None and elsewhere else configured
        if run_id is None and before is not None and before.uri == shown(uri):
            run_id = before.run_id
        tracker = Tracker(kept, uri, run_id, report or logging.getLogger("fasttrain").warning)
        if kept.garbled:
            tracker._report(f"MLflow: {kept.path} has {kept.garbled} garbled lines, which are left out")
        tracker._append(
            "start",
            uuid=kept.uuid or uuid4().hex,
            uri=tracker.uri,
            experiment=experiment,
            run_name=run_name,
            params={name: str(value) for name, value in params.items()},
            tags={name: str(value) for name, value in (tags or {}).items()},
        )
        tracker._thread.start()
        return tracker

    @property
    def uuid(self) -> str | None:  # type: ignore[override]
        return self._journal.uuid

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        """The run's id in the store at `uri`, once it is there; None where the store is away, or takes over `timeout`
        seconds (`RUN_TIMEOUT`), in all calls together."""
        if not self._settled.wait(RUN_TIMEOUT if timeout is None else timeout):
            self._settled.set()
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Logs numbers (anything `float()` takes, NaN included) at `step`. Never waits for the store.

        What the run logged before it was resumed, with the same value at the same step, isn't logged again.
        """
        values = {name: float(value) for name, value in metrics.items()}
        new = {name: value for name, value in values.items() if not self._journal.holds(name, step, value)}
        if new:
            self._append("metrics", metrics=new, step=step)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Logs the file at `path`, into the artifacts' `folder`. It must stay there until it is delivered."""
        whole, beside = path.resolve(), self._journal.path.parent.resolve()
        kept = whole.relative_to(beside) if whole.is_relative_to(beside) else whole
        self._append("artifact", path=str(kept), folder=folder)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags of the run; values as text, cut at MLflow's 8,000 characters."""
        self._append("tags", tags={name: str(value) for name, value in tags.items()})

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        """Ends the run (FINISHED, FAILED, KILLED) and waits, at most `timeout` seconds (`FINISH_TIMEOUT`), for the
        store to have all; a few seconds only for one that is away.

        A second call does nothing. What isn't delivered by then is reported, and stays in the journal.
        """
        if self._finished:
            return
        self._append("finish", status=status)
        with self._news:
            self._finished = True
            self._news.notify()
        left = 0
        try:
            self._wait(status == "KILLED", FINISH_TIMEOUT if timeout is None else timeout)
            left = self._journal.count(self._delivery.sent)
        finally:
            self._left.set()  # the thread ends after the request it is in
            with self._news:
                self._news.notify()
        if self._delivered.is_set():
            if "away" in self._told:
                self._report(f"MLflow: {self.uri} has everything now")
            return
        why = f" ({reason(self._failure)})" if self._failure else ""
        self._report(
            f"MLflow: {self.uri} lacks {left} entries{why}; they are kept in {self._journal.path}, for the next run "
            f"beside it or: fasttrain runs --deliver {self._journal.path.parent}"
        )

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = status_of(error)
        if status == "FAILED" and not self._finished:
            self.set_tags({"error": f"{type(error).__name__}: {error}"})
        self.finish(status)

    def _append(self, op: str, **fields: Any) -> None:
        if self._finished:
            raise RuntimeError(f"the MLflow run is finished; '{op}' came too late")
        with self._news:
            self._journal.append({"op": op, "time": int(time.time() * 1000), **fields})
            self._news.notify()
        if self._journal.problem:
            self._tell("journal", f"MLflow's journal can't be kept ({self._journal.problem}); the run goes on without")

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._report(line)

    def _work(self) -> None:
        beside: threading.Thread | None = None
        while not self._left.is_set():
            self._asked_at = time.monotonic()
            try:
                more = self._delivery.advance()
            except Exception as error:  # MLflow's, requests', SQLAlchemy's, OSError: all mean "not now"
                self._failed(error)
                continue
            finally:
                self._asked_at = None
            self.run_id = self._delivery.run_id
            self._failures = 0
            self._settled.set()
            if beside is None:
                beside = self._deliver_waiting()
            if more:
                continue
            with self._news:
                self._news.wait_for(lambda: self._journal.size > self._delivery.sent or self._finished)
                if self._journal.size <= self._delivery.sent:
                    break
        else:
            self._journal.close()
            return
        with contextlib.suppress(Exception):  # it was told, and waits in the journal
            self._delivery.send_refused()
        self._delivered.set()
        self._journal.close()

    def _failed(self, error: Exception) -> None:
        """Waits until it is time to try again."""
        self._failures += 1
        self._failure = error
        self._settled.set()
        self._journal.sync()
        if self._failures > 1 and not isinstance(error, Busy):
            said = f"MLflow: {self.uri} fails ({reason(error)}); the run goes on, and {self._journal.path} keeps"
            self._tell("away", f"{said} everything until it works again")
        was_finished = self._finished
        pause = _FIRST_RETRY_S if was_finished else min(_FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 30), _RETRY_S)
        with self._news:
            self._news.wait_for(lambda: self._left.is_set() or self._finished != was_finished, pause)

    def _deliver_waiting(self) -> threading.Thread:
        arguments = (self._journal.path, self._delivery.uri, self._report, lambda: not self._finished)
        thread = threading.Thread(target=deliver_waiting, args=arguments, name="fasttrain-mlflow-waiting", daemon=True)
        thread.start()
        return thread

    def _wait(self, killed: bool, timeout: float) -> None:
        began = time.monotonic()
        while self._thread.is_alive():
            asked_at, now = self._asked_at, time.monotonic()
            silent = is_remote(self._delivery.uri) and asked_at is not None and now - asked_at > _KILLED_AWAY_S
            away = self._failures > 0 or (killed and silent)
            limits = (_KILLED_S, _KILLED_AWAY_S) if killed else (timeout, _AWAY_S)
            if now - began > min(timeout, limits[away]):
                return
            self._thread.join(0.05)


def status_of(error: BaseException | None) -> str:
    """MLflow's RunStatus for what left the run's `with` block; exit codes 75, 130 and 143 mean KILLED."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return "KILLED"
    if isinstance(error, SystemExit) and error.code in (75, 130, 143):
        return "KILLED"
    return "FAILED"
