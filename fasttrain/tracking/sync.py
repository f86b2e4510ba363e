"""`sync`: bring what a run's folder holds, and its MLflow store lacks, to that store. It is safe to repeat."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.tracking.lock import FolderLock
from fasttrain.tracking.record import RECORD, Entry, Record, record_files
from fasttrain.tracking.store import Store, configured_uri, is_remote, local_uri, set_environment, shown

RUNS = Path("runs")
TRIES = 3

Report = Callable[[str], None]


class Busy(Exception):
    """Another process trains in the folder, or syncs it."""


class Sync:
    """Brings one record to the store at `uri`.

    Each call compares the folder with what the record says is delivered, and what is missing with what the store has:
    an answer may have been lost, or a process killed, before the record said so. Nothing is sent twice or left out.
    """

    def __init__(self, record: Record, uri: str, report: Report, *, run_id: str | None = None) -> None:
        self.record = record
        self.uri = uri
        self._run_id = run_id
        self._report = report
        self._store: Store | None = None
        self._refused: Counter[str] = Counter()
        self._told: set[str] = set()  # kinds of entries of which a refusal was reported
        self.connected = threading.Event()
        self.asked_at: float | None = None  # since when the store has been asked something

    @property
    def run_id(self) -> str | None:
        """The run in the store, once it is known."""
        return self.record.run_id if self.record.uri == shown(self.uri) else None

    def missing(self, *, refused: bool = True) -> list[Entry]:
        """Return the entries that the store lacks. `refused=False` leaves out those that it refused `TRIES` times."""
        entries = self.record.missing() if self.run_id else self.record.entries()
        return [entry for entry in entries if refused or self._refused[entry.key] < TRIES]

    def push(self) -> None:
        """Send what is missing. An entry that a working store refuses does not keep the others from it.

        It is sent again with the next calls, and left out after `TRIES` refusals. Raises whatever the store does; the
        same call can be made again at any time.
        """
        try:
            store = self._store or self._connect()
            errors: list[Exception] = []
            for kind, entries in itertools.groupby(self.missing(refused=False), key=lambda entry: entry.kind):
                for several in [list(entries)] if kind == "metrics" else [[entry] for entry in entries]:
                    errors += self._send(store, several)
            if errors:
                raise errors[0]
        except BaseException:
            self._store = None
            raise
        finally:
            self.asked_at = None

    def _connect(self) -> Store:
        self.asked_at = time.monotonic()
        store = Store(self.uri)
        store.open_run(self.record, self.run_id or self._run_id)
        self.record.aim_at(shown(self.uri), store.run_id)
        self._store = store
        self.connected.set()
        return store

    def _send(self, store: Store, entries: Sequence[Entry]) -> list[Exception]:
        """Send `entries`. Return errors of a working store that don't say that it refuses an entry.

        Raises what the store does if it doesn't work.
        """
        self.asked_at = time.monotonic()
        try:
            store.deliver(self.record.folder, entries)
        except Exception as error:
            try:
                store.check()
            except Exception:
                raise error from None  # the store is away, whatever was sent to it
            if len(entries) > 1:  # fewer may be answered in time, or only one of them be refused
                half = len(entries) // 2
                return self._send(store, entries[:half]) + self._send(store, entries[half:])
            if entries[0].kind != "artifact" and not self._is_refusal(error):
                return [error]
            self._refused[entries[0].key] += 1
            if self._refused[entries[0].key] == TRIES and entries[0].kind not in self._told:
                self._told.add(entries[0].kind)
                self._report(f"MLflow: {self._named(entries[0])} ({reason(error)})")
            return []
        self.record.mark(entries)
        return []

    def _is_refusal(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException, RestException

        # A proxy's page says nothing about the entry, what the server itself says in JSON does.
        ours = RestException if is_remote(self.uri) else MlflowException
        return isinstance(error, ours) and error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

    def _named(self, entry: Entry) -> str:
        if entry.kind == "artifact":
            return f"{self.record.folder / entry.value['name']} can't be logged, and stays where it is"
        names = ", ".join(entry.value.get("metrics", entry.value))[:80]
        return f"{entry.kind} {names} refused, and kept in {self.record.folder}"


def sync(
    record: Record, uri: str, report: Report, go_on: Callable[[], bool] = lambda: True, *, locked: bool = False
) -> int:
    """Bring a record, and what its folder holds, to the store at `uri`; return how many entries it still lacks.

    `go_on` is asked before each step. `locked`: the caller holds the folder's lock. Raises Busy, and whatever the store
    does.
    """
    lock = FolderLock(record.folder)
    if not locked and not lock.take():
        raise Busy(f"{record.folder}: another process trains in it, or syncs it")
    try:
        record.shared = True
        own, failures = Sync(record, uri, report), 0
        while go_on() and own.missing(refused=False):
            left = len(own.missing())
            try:
                own.push()
                failures = 0
            except Exception:
                failures = 0 if len(own.missing()) < left else failures + 1
                if own.run_id is None or (failures >= 2 * TRIES and own.missing(refused=False)):
                    raise
        return len(own.missing())
    finally:
        lock.release()


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

    Errors go to the log; what they left undone is tried again the next time.
    """
    for record, missing in waiting_records(record_files(own.parent, "*/")):
        if not go_on():
            return
        if record.path == own / RECORD or record.uri != shown(uri):
            continue
        try:
            quiet = logging.getLogger("fasttrain").debug  # its refusals were told when it ran
            if sync(record, uri, quiet, go_on, locked=record.folder == own) == 0:
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
    return configured_uri() if os.environ.get("MLFLOW_TRACKING_URI") else record.uri or local_uri()


def reason(error: BaseException) -> str:
    """Return the innermost cause in one short line: MLflow wraps three libraries' messages into a page."""
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    text = shown((str(error) or type(error).__name__).splitlines()[0])
    return text if len(text) <= 160 else text[:159] + "…"
