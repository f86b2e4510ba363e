"""`sync`: bring what a run's folder holds, and its MLflow store lacks, to that store. It is safe to repeat."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.tracking.lock import FolderLock
from fasttrain.tracking.record import RECORD, Entry, Record, record_files
from fasttrain.tracking.store import Store, is_remote, local_uri, set_environment, shown

RUNS = Path("runs")
ENTRIES_AT_ONCE = 1000
TRIES = 3

Report = Callable[[str], None]


class Busy(Exception):
    """Another process trains in the folder, or syncs it."""


class Sync:
    """One record on its way to the store at `uri`.

    Each step compares the folder with what the record says is delivered. Where that can be wrong, because an answer was
    lost or a process killed, the step compares it with what the store has: nothing is sent twice, nothing left out.
    """

    def __init__(self, record: Record, uri: str, report: Report, *, run_id: str | None = None) -> None:
        self.record = record
        self.uri = uri
        self._run_id = run_id
        self._report = report
        self._store: Store | None = None
        self._failures: Counter[str] = Counter()
        self._at_once = ENTRIES_AT_ONCE
        self._artifacts_refused = False

    @property
    def run_id(self) -> str | None:
        """The run in the store, once it is known."""
        return self.record.run_id if self.record.uri == shown(self.uri) else None

    def step(self) -> bool:
        """Send the next entries; return False where there is nothing to send that the store would take.

        Raises whatever the store does: then the same call can be made again at any time.
        """
        try:
            store = self._store or self._connect()
            missing = [entry for entry in self.record.missing() if self._failures[entry.key] < TRIES]
            if not missing:
                return False
            several = [entry for entry in missing if entry.kind == "metrics"][: self._at_once]
            self._send(store, several if missing[0].kind == "metrics" else missing[:1])
        except BaseException:
            self._store = None
            raise
        return True

    def try_refused_again(self) -> None:
        """Have `step` send once more what the store refused."""
        self._failures = Counter({key: min(times, TRIES - 1) for key, times in self._failures.items()})

    def missing(self) -> int:
        """Return how many entries the store lacks."""
        return len(self.record.missing())

    def _connect(self) -> Store:
        store = Store(self.uri)
        store.open_run(self.record, self.run_id or self._run_id)
        self.record.aim_at(shown(self.uri), store.run_id)
        self._store = store
        return store

    def _send(self, store: Store, entries: Sequence[Entry]) -> None:
        try:
            store.deliver(self.record.folder, entries)
        except Exception as error:
            if len(entries) > 1:  # fewer may be answered in time, or only one of them be refused
                self._at_once = max(1, len(entries) // 4)
                raise
            self._consider(store, entries[0], error)
            return
        self._at_once = min(2 * self._at_once, ENTRIES_AT_ONCE)
        self.record.mark(entries)

    def _consider(self, store: Store, entry: Entry, error: Exception) -> None:
        """Return where a store that is well refuses the entry for the last time: it is set aside."""
        try:
            store.check()
        except Exception:
            raise error from None  # the store is away, whatever was sent to it
        if not (entry.kind == "artifact" or self._is_refusal(error)):
            raise error
        self._failures[entry.key] += 1
        if self._failures[entry.key] < TRIES:
            raise error
        self._report_refused(entry, error)

    def _is_refusal(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException, RestException

        # A proxy's page says nothing about the entry, what the server itself says in JSON does.
        ours = RestException if is_remote(self.uri) else MlflowException
        return isinstance(error, ours) and error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

    def _report_refused(self, entry: Entry, error: Exception) -> None:
        folder = self.record.folder
        if entry.kind != "artifact":
            names = ", ".join(entry.value.get("metrics", entry.value))[:80]
            self._report(f"MLflow: {entry.kind} {names} is refused ({reason(error)}); it stays in {folder}")
        elif not self._artifacts_refused:
            self._artifacts_refused = True
            path = folder / entry.value["name"]
            self._report(f"MLflow: {path} can't be logged ({reason(error)}); artifacts stay where they are")


def sync(
    record: Record, uri: str, report: Report, go_on: Callable[[], bool] = lambda: True, *, locked: bool = False
) -> int:
    """Bring a record, and what its folder holds, to the store at `uri`; return how many entries that still lacks.

    `go_on` is asked before each step. `locked`: the folder's lock is ours already. Raises Busy, and whatever the store
    does.
    """
    lock = FolderLock(record.folder)
    if not locked and not lock.take():
        raise Busy(f"{record.folder}: another process trains in it, or syncs it")
    try:
        record.shared = True
        own = Sync(record, uri, report)
        tries = 0
        while go_on():
            try:
                if not own.step():
                    break
                tries = 0
            except Exception:
                if (tries := tries + 1) >= 2 * TRIES or own.run_id is None:
                    raise
        return own.missing()
    finally:
        lock.release()


def sync_folder(folder: Path, uri: str | None = None, report: Report = lambda line: None) -> int:
    """Bring all that the run folder holds to the store at `uri`, whether or not the run was tracked.

    Return how many entries the store still lacks. `uri`: default: $MLFLOW_TRACKING_URI, else where the run was tracked,
    else `mlflow.db` in the working directory. Raises Busy, whatever the store does, and OSError or ValueError for a
    folder that can't be read.
    """
    set_environment()
    records = [record for path in record_files(folder) if (record := Record.load(path))]
    if folder / RECORD not in {record.path for record in records}:
        records.append(Record.of_untracked(folder))
    return sum(sync(record, uri or _meant_for(record), report) for record in records)


def waiting_records(paths: Iterable[Path]) -> Iterator[tuple[Record, int]]:
    """Yield the records at `paths` whose store lacks something, and how many entries it lacks."""
    for path in dict.fromkeys(paths):
        try:
            if (record := Record.load(path)) is not None and (missing := len(record.missing())):
                yield record, missing
        except (OSError, ValueError) as error:
            logging.getLogger("fasttrain").debug("MLflow: %s can't be read: %s", path, error)


def sync_beside(own: Path, uri: str, report: Report, go_on: Callable[[], bool]) -> None:
    """Bring what the runs beside the folder `own` could not bring to the store at `uri`, and what `own` set aside.

    What goes wrong is left for the next time.
    """
    for record, missing in waiting_records(record_files(own.parent, "*/")):
        if not go_on():
            return
        if record.path == own / RECORD or record.uri != shown(uri):
            continue
        try:
            if sync(record, uri, report, go_on, locked=record.folder == own) == 0:
                report(f"MLflow: {record.folder}, which waited, is delivered: {missing} entries")
        except Exception as error:  # the run itself must go on, whatever another's folder holds
            logging.getLogger("fasttrain").debug("MLflow: %s still waits: %s", record.path, reason(error))


def deliver_runs(folders: Sequence[Path], say: Report) -> None:
    """Bring what waits in and below `folders` to $MLFLOW_TRACKING_URI, else to the store that each was meant for.

    `say` gets a line a run. Raises UserError for a folder that isn't there, and, after all were tried, where a store
    still lacks something.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; give run folders, or folders of them")
    set_environment()
    failed: list[str] = []
    away: dict[str, str] = {}
    waited = False
    for record, _ in waiting_records(path for folder in folders for path in record_files(folder, "", "*/**/")):
        waited = True
        uri = _meant_for(record)
        try:
            if uri not in away and (left := sync(record, uri, say)):
                failed.append(f"{record.folder}: {shown(uri)} refuses {left} entries")
            elif uri not in away:
                say(f"{record.folder}: delivered to {shown(uri)}")
        except Busy:
            say(f"{record.folder}: its run is going on, and delivers by itself")
        except Exception as error:  # MLflow's, requests', SQLAlchemy's, OSError
            away[uri] = f"{shown(uri)} ({reason(error)})"
        if uri in away:
            failed.append(f"{record.folder}: {away[uri]}")
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; what is left stays in its folder: try again later")
    if not waited:
        say(f"nothing waits in {', '.join(map(str, folders))}")


def _meant_for(record: Record) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or record.uri or local_uri()


def reason(error: BaseException) -> str:
    """Return the innermost cause in one short line: MLflow wraps three libraries' messages into a page."""
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    text = shown((str(error) or type(error).__name__).splitlines()[0])
    return text if len(text) <= 160 else text[:159] + "…"
