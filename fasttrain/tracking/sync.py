"""Deliver a run's folder to its MLflow store. Delivery can be interrupted and repeated at any time."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fasttrain.errors import UserError, first_line
from fasttrain.text import counted
from fasttrain.tracking.lock import FolderLock
from fasttrain.tracking.record import RECORD, Entry, Record, record_files
from fasttrain.tracking.store import Store, configured_uri, is_remote, local_uri, set_environment, shown

RUNS = Path("runs")
TRIES = 3  # refusals after which an entry is left out

Report = Callable[[str], None]


class Busy(Exception):
    """Raised if another process trains in the folder or delivers it."""


class Sync:
    """Delivers one record to the store at `uri`.

    Each call of `push` sends the entries that the record doesn't list as delivered. The store may have some of these
    already, if a response was lost, or if a process was killed before it updated the record. So `push` first asks the
    store what it has, and nothing is stored twice or left out.
    """

    def __init__(self, record: Record, uri: str, report: Report, *, run_id: str | None = None) -> None:
        self.record = record
        self.uri = uri
        self._run_id = run_id
        self._report = report
        self._store: Store | None = None
        self._refused: Counter[str] = Counter()
        self._reported_kinds: set[str] = set()  # kinds of entries for which a refusal was reported
        self.connected = threading.Event()
        self.asked_at: float | None = None  # when the current request to the store began

    @property
    def run_id(self) -> str | None:
        """Return the run's id in the store, or None if it is not known yet."""
        return self.record.run_id if self.record.uri == shown(self.uri) else None

    def missing(self, *, refused: bool = True) -> list[Entry]:
        """Return the entries that the store lacks.

        `refused`: whether to include entries that the store has refused `TRIES` times.
        """
        entries = self.record.missing() if self.run_id else self.record.entries()
        return [entry for entry in entries if refused or self._refused[entry.key] < TRIES]

    def push(self) -> None:
        """Send the entries that the store lacks. If the store refuses one of them, the others are still sent.

        The next calls send a refused entry again, until it was refused `TRIES` times. Raises the store's error if the
        store doesn't work, for example if a server doesn't answer. `push` can then be called again at any time.
        """
        try:
            store = self._store or self._connect()
            errors: list[Exception] = []
            for kind, entries in itertools.groupby(self.missing(refused=False), key=lambda entry: entry.kind):
                for group in [list(entries)] if kind == "metrics" else [[entry] for entry in entries]:
                    errors += self._send(store, group)
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
        self.record.set_destination(shown(self.uri), store.run_id)
        self._store = store
        self.connected.set()
        return store

    def _send(self, store: Store, entries: Sequence[Entry]) -> list[Exception]:
        """Send `entries`. Return the errors by which a working store did anything but refuse an entry.

        Raises the store's error if the store doesn't work.
        """
        self.asked_at = time.monotonic()
        try:
            store.deliver(self.record.folder, entries)
        except Exception as error:
            try:
                store.check()
            except Exception:
                raise error from None  # the store doesn't work at all
            if len(entries) > 1:  # fewer entries may be stored in time, and only one of them may be refused
                half = len(entries) // 2
                return self._send(store, entries[:half]) + self._send(store, entries[half:])
            if entries[0].kind != "artifact" and not self._is_refusal(error):
                return [error]
            self._refused[entries[0].key] += 1
            if self._refused[entries[0].key] == TRIES and entries[0].kind not in self._reported_kinds:
                self._reported_kinds.add(entries[0].kind)
                self._report(f"MLflow: {self._refusal_of(entries[0])} ({reason(error)})")
            return []
        self.record.mark_delivered(entries)
        return []

    def _is_refusal(self, error: Exception) -> bool:
        """Return whether `error` means that the store works but refuses the entry."""
        from mlflow.exceptions import MlflowException, RestException

        # A server's own errors, which are JSON, are about the entry. A proxy's error page is not.
        from_store = RestException if is_remote(self.uri) else MlflowException
        return isinstance(error, from_store) and error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

    def _refusal_of(self, entry: Entry) -> str:
        """Return a phrase that says which entry the store has refused, and where it is kept."""
        if entry.kind == "artifact":
            return f"{self.record.folder / entry.value['name']} can't be logged, and stays in the run's folder"
        names = ", ".join(entry.value.get("metrics", entry.value))[:80]
        return f"the store refuses the {entry.kind} {names}, which {self.record.folder} keeps"


def sync(
    record: Record, uri: str, report: Report, may_continue: Callable[[], bool] = lambda: True, *, locked: bool = False
) -> int:
    """Deliver `record` and what its folder holds to the store at `uri`. Return how many entries the store still lacks.

    `report` receives a line about a refused entry. `may_continue` is called before each attempt; delivery stops once it
    returns False. `locked`: whether the caller holds the folder's lock. Raises Busy if another process holds that lock,
    and the store's error if the store doesn't work.
    """
    lock = FolderLock(record.folder)
    if not locked and not lock.take():
        raise Busy(f"{record.folder}: another process trains in this folder or delivers it")
    try:
        record.shared = True
        delivery, failures = Sync(record, uri, report), 0
        while may_continue() and delivery.missing(refused=False):
            before = len(delivery.missing())
            try:
                delivery.push()
                failures = 0
            except Exception:
                failures = 0 if len(delivery.missing()) < before else failures + 1
                if delivery.run_id is None or (failures >= 2 * TRIES and delivery.missing(refused=False)):
                    raise
        return len(delivery.missing())
    finally:
        lock.release()


def waiting_records(paths: Iterable[Path]) -> Iterator[tuple[Record, int]]:
    """Yield each record at `paths` that the MLflow store has not received completely, and how many entries are missing.

    Records that can't be read are skipped, with a line in the log.
    """
    for path in dict.fromkeys(paths):
        try:
            if (record := Record.load(path)) is not None and (missing := len(record.missing())):
                yield record, missing
        except (OSError, ValueError) as error:
            logging.getLogger("fasttrain").debug("MLflow: %s can't be read: %s", path, error)


def sync_beside(own: Path, uri: str, report: Report, may_continue: Callable[[], bool]) -> None:
    """Deliver earlier runs to the store at `uri`, if they were tracked there and the store lacks a part of them.

    These are the runs in the folders beside the folder `own`, and the earlier runs in `own` (see `record.set_aside`).
    `report` receives a line per delivered run. `may_continue` is called before each run; delivery stops once it returns
    False. Errors only go to the log, because the next run tries again.
    """
    for record, missing in waiting_records(record_files(own.parent, "*/")):
        if not may_continue():
            return
        if record.path == own / RECORD or record.uri != shown(uri):
            continue
        try:
            quiet = logging.getLogger("fasttrain").debug  # its refusals were reported when it ran
            if sync(record, uri, quiet, may_continue, locked=record.folder == own) == 0:
                entries = counted(missing, "entry", "entries")
                report(f"MLflow: {entries} of an earlier run, {record.folder}, delivered now")
        except Exception as error:  # the run must continue, whatever is in the folders of others
            logging.getLogger("fasttrain").debug("MLflow: %s still waits: %s", record.path, reason(error))


def deliver_runs(folders: Sequence[Path], say: Report) -> None:
    """Deliver all runs in and below `folders` that an MLflow store has not received completely.

    They are delivered to $MLFLOW_TRACKING_URI if it is set, otherwise to the store in which each run is tracked. `say`
    receives a line per run. Raises UserError for a folder that doesn't exist, and, after all runs have been tried, if a
    store still lacks entries.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; give run folders, or folders that contain some")
    set_environment()
    failed: list[str] = []
    unreachable: dict[str, str] = {}
    waited = False
    for record, _ in waiting_records(path for folder in folders for path in record_files(folder, "", "*/**/")):
        waited = True
        uri = _store_of(record)
        try:
            if uri not in unreachable and (refused := sync(record, uri, say)):
                failed.append(f"{record.folder}: {shown(uri)} refuses {counted(refused, 'entry', 'entries')}")
            elif uri not in unreachable:
                say(f"{record.folder}: delivered to {shown(uri)}")
        except Busy:
            say(f"{record.folder}: not delivered: the run is still training, and delivers its own entries")
        except Exception as error:  # errors of MLflow, requests or SQLAlchemy, and OSError
            unreachable[uri] = f"{shown(uri)} ({reason(error)})"
        if uri in unreachable:
            failed.append(f"{record.folder}: {unreachable[uri]}")
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; undelivered entries stay in the run folders: try again later")
    if not waited:
        say(f"nothing to deliver in {', '.join(map(str, folders))}")


def _store_of(record: Record) -> str:
    """Return the URI of the store to which `record` is delivered."""
    return configured_uri() if os.environ.get("MLFLOW_TRACKING_URI") else record.uri or local_uri()


def reason(error: BaseException) -> str:
    """Return the innermost cause of `error` in one line of at most 160 characters, without passwords.

    MLflow wraps the messages of three libraries into a page of text.
    """
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    text = shown(first_line(error))
    return text if len(text) <= 160 else text[:159] + "…"
