"""`Tracker`: one MLflow run that never makes training wait and never loses what was logged.

Each call writes a line to the run's journal and returns; a thread imports MLflow (seconds) and brings the
journal to the store. A store that fails in mid-run is left for the local one, which gets the journal from its
start.
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

from fasttrain.errors import Stopped
from fasttrain.tracking.journal import Delivered, Entry, Journal
from fasttrain.tracking.store import Store, is_remote, local_uri, set_environment, shown

JOURNAL = "tracking.jsonl"
ENTRIES_AT_ONCE = 1000
LOCAL_TRIES = 3
FINISH_TIMEOUT = 60.0


class NullTracker:
    """Tracks nothing, with `Tracker`'s interface."""

    run_id: str | None = None
    uri: str | None = None

    def wait_for_run(self, timeout: float = 30.0) -> str | None:
        """The run's id; None here."""
        return None

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Does nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Does nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Does nothing."""

    def finish(self, status: str = "FINISHED", timeout: float = FINISH_TIMEOUT) -> None:
        """Does nothing."""

    def __enter__(self) -> NullTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing."""


class Tracker(NullTracker):
    """A run in MLflow; made by `start`, ended by `finish` or by leaving its `with` block.

    The block ends the run as FINISHED, as KILLED on KeyboardInterrupt, Stopped and SystemExit by a signal,
    else as FAILED (with the tag `error`).
    """

    def __init__(
        self, journal: Journal, uri: str, run_id: str | None, local: str, report: Callable[[str], None]
    ) -> None:
        self.uri = shown(uri)
        self._uri = uri
        self.run_id = run_id
        self._journal = journal
        self._local = local
        self._report = report
        self._store: Store | None = None
        self._abandoned: Store | None = None
        self._sent = 0
        self._finished = False
        self._artifacts_refused = False
        self._news = threading.Condition()
        self._settled = threading.Event()
        self._logged_before = {
            (name, entry["step"]): value
            for entry in journal.entries
            if entry["op"] == "metrics"
            for name, value in entry["metrics"].items()
        }
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

        `journal`: the folder to keep `tracking.jsonl` in, the run's own.

        `uri`: MLflow's tracking URI; default: where the journal was delivered to, else $MLFLOW_TRACKING_URI,
        else `mlflow.db` in the working directory (artifacts beside it, in `mlartifacts`). `params`: any
        number, any length; a continued run keeps its own and gets the tag `changed.NAME` for each that
        differs. `report` takes one line for people, once for each thing that goes wrong, from another thread;
        default: the log.

        Returns at once; `run_id` and `uri` are settled a few seconds later (`run_id` may be None until then).
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
        tracker = Tracker(kept, uri, run_id, local_uri(), report or logging.getLogger("fasttrain").warning)
        if kept.problem:
            tracker._report(f"MLflow's journal can't be kept ({kept.problem}); the run goes on without one")
        tracker._append(
            "start",
            experiment=experiment,
            run_name=run_name,
            params={name: str(value) for name, value in params.items()},
            tags={name: str(value) for name, value in (tags or {}).items()},
        )
        tracker._thread.start()
        return tracker

    def wait_for_run(self, timeout: float = 30.0) -> str | None:
        """The run's id in the store at `uri`, once it is there; None where that takes over `timeout`
        seconds."""
        self._settled.wait(timeout)
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Logs numbers (anything `float()` takes, NaN included) at `step`. Never waits for the store.

        What the run logged before it was resumed, with the same value at the same step, isn't logged again.
        """
        values = {name: float(value) for name, value in metrics.items()}
        before = self._logged_before
        new = {name: value for name, value in values.items() if before.get((name, step)) != value}
        if new:
            self._append("metrics", metrics=new, step=step)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Logs the file at `path`, into the artifacts' `folder`. It must stay there until `finish`
        returns."""
        self._append("artifact", path=str(path.resolve()), folder=folder)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags of the run; values as text, cut at MLflow's 8,000 characters."""
        self._append("tags", tags={name: str(value) for name, value in tags.items()})

    def finish(self, status: str = "FINISHED", timeout: float = FINISH_TIMEOUT) -> None:
        """Ends the run (FINISHED, FAILED, KILLED) and waits, at most `timeout` seconds, for the store to have
        all.

        A second call does nothing. What isn't delivered by then is reported, and stays in the journal.
        """
        if self._finished:
            return
        self._append("finish", status=status)
        with self._news:
            self._finished = True
            self._news.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            left = len(self._journal.entries) - self._sent
            self._report(
                f"MLflow: {self.uri} has not taken {left} entries in {timeout:.0f} s; "
                f"they are kept in {self._journal.path}"
            )
        else:
            self._journal.close()

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

    def _work(self) -> None:
        try:
            self._open()
            self._settled.set()
            while (batch := self._next_batch()) and self._store is not None:
                self._send(batch)
            self._end_abandoned()
        except Exception as error:  # a thread's exception would be printed and forgotten
            self._store = None
            self._settled.set()
            self._report(f"MLflow: {_reason(error)}; the run goes on, its metrics are in {self._journal.path}")

    def _next_batch(self) -> list[Entry]:
        """The next entries of one kind; waits for them; empty when the run is finished and all is sent."""
        entries = self._journal.entries
        with self._news:
            self._news.wait_for(lambda: self._sent < len(entries) or self._finished)
            batch: list[Entry] = []
            for entry in entries[self._sent : self._sent + ENTRIES_AT_ONCE]:
                if batch and (entry["op"] != batch[0]["op"] or entry["op"] != "metrics"):
                    break
                batch.append(entry)
            return batch

    def _open(self) -> None:
        before, uri = self._journal.delivered, self._uri
        try:
            self._connect(uri, self.run_id)
        except Exception as error:  # MLflow's, requests', SQLAlchemy's, OSError: all mean "not here"
            self._go_local(error)
            return
        if before is not None and (before.uri, before.run_id) == (shown(uri), self.run_id):
            self._sent = before.entries

    def _connect(self, uri: str, run_id: str | None = None, tags: dict[str, str] | None = None) -> None:
        store = Store(uri)
        first = next(entry for entry in self._journal.entries if entry["op"] == "start")
        if run_id and tags is None:
            tags = {"fasttrain.continues": run_id}
        store.open_run(first, run_id, tags)
        self._store, self._uri, self.run_id = store, uri, store.run_id
        self.uri = shown(uri)
        self._journal.mark_delivered(Delivered(self.uri, store.run_id, 0))

    def _send(self, batch: list[Entry]) -> None:
        assert self._store is not None
        try:
            self._try(self._store, batch)
        except Exception as error:  # MLflow's, requests', SQLAlchemy's, OSError
            if batch[0]["op"] != "artifact" or not self._answers():
                self._go_local(error)
                return
            self._refused(batch[0]["path"], error)
        self._sent += len(batch)
        self._journal.mark_delivered(Delivered(shown(self._store.uri), self._store.run_id, self._sent))

    def _try(self, store: Store, batch: list[Entry]) -> None:
        # A local database may be locked for a moment by another run; a server has had MLflow's own retries.
        tries = 1 if is_remote(store.uri) or batch[0]["op"] == "artifact" else LOCAL_TRIES
        for _ in range(tries - 1):
            with contextlib.suppress(Exception):
                store.deliver(batch)
                return
            time.sleep(1)
        store.deliver(batch)

    def _answers(self) -> bool:
        try:
            assert self._store is not None
            self._store.check()
        except Exception:
            return False
        return True

    def _refused(self, path: str, error: Exception) -> None:
        if not self._artifacts_refused:
            self._artifacts_refused = True
            self._report(f"MLflow: {path} can't be logged ({_reason(error)}); artifacts stay where they are")

    def _go_local(self, error: Exception) -> None:
        """Leaves the store that failed and starts the journal anew in the local one."""
        failed, self._store = self._store, None
        if self._uri == self._local:
            raise error
        self._report(f"MLflow: {self.uri} failed ({_reason(error)}); the run goes on in {self._local}, nothing is lost")
        self._abandoned = failed
        self._sent = 0
        replaced = f"{self.run_id or 'no run'} in {self.uri}"
        self._connect(self._local, tags={"fasttrain.replaces": replaced})

    def _end_abandoned(self) -> None:
        """Ends the run in the store that failed, should it answer again by now."""
        if self._abandoned is None:
            return
        try:
            self._abandoned.deliver([{"op": "tags", "tags": {"fasttrain.continued_in": f"{self.uri}"}}])
            self._abandoned.deliver(self._journal.entries[-1:])
        except Exception as error:
            logging.getLogger("fasttrain").debug("MLflow: %s is still away: %s", self._abandoned.uri, error)


def status_of(error: BaseException | None) -> str:
    """MLflow's RunStatus for what left the run's `with` block; exit codes 75, 130 and 143 mean KILLED."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return "KILLED"
    if isinstance(error, SystemExit) and error.code in (75, 130, 143):
        return "KILLED"
    return "FAILED"


def _reason(error: BaseException) -> str:
    """The innermost cause in one short line: MLflow wraps three libraries' messages into a page."""
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    text = shown((str(error) or type(error).__name__).splitlines()[0])
    return text if len(text) <= 160 else text[:159] + "…"
