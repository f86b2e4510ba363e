"""Brings a journal to a store, each entry once, whatever becomes of the requests and of their answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from fasttrain.tracking.journal import JOURNAL, Batch, Delivered, Entry, Journal
from fasttrain.tracking.store import Store, is_remote, shown

ENTRIES_AT_ONCE = 1000
TRIES = 3


class Busy(Exception):
    """Another process is delivering the journal."""


class Delivery:
    """One journal on its way to the store at `uri`.

    What was sent is marked in the journal once the store has it. Where an answer is lost, or a process killed, between
    the two, the next batch is compared with what the store has: nothing is sent twice, and nothing is left out.
    """

    def __init__(self, journal: Journal, uri: str, run_id: str | None, report: Callable[[str], None]) -> None:
        self.uri = uri
        self.run_id = run_id
        self.sent = self._delivered(journal).end
        self._journal = journal
        self._report = report
        self._store: Store | None = None
        self._refused: tuple[int, ...] = ()
        self._doubtful = 0
        self._at_once = ENTRIES_AT_ONCE
        self._tries = 0
        self._artifacts_refused = False

    def advance(self) -> bool:
        """Sends the next batch; False where there was nothing to send. Raises whatever the store does, or Busy: then
        the same call can be made again at any time."""
        try:
            store = self._store or self._connect()
            batch = self._read(self.sent, self._at_once)
            if not batch.entries:
                self.sent = batch.end
                return False
            # First to the disk: a power cut must not take from the journal what the store has.
            self._journal.sync()
            self._send(store, batch)
        except BaseException:
            self._store = None
            raise
        return True

    def send_refused(self) -> int:
        """Tries once more what the store refused; returns how many entries it still refuses."""
        store = self._store or self._connect()
        if not self._refused:
            return 0
        for position in self._refused:
            entries = self._read(position, 1).entries[:1]
            try:
                if entries and not self._is_gone(entries[0]):
                    store.deliver(entries, doubtful=True)
            except Exception as error:
                store.check()
                self._report_refused(entries[0], error)
            else:
                self._refused = tuple(each for each in self._refused if each != position)
        self._mark()
        return len(self._refused)

    def _read(self, start: int, limit: int) -> Batch:
        batch = self._journal.read(start, limit)
        for entry in batch.entries:
            if entry["op"] == "artifact":  # in the run's folder, wherever that has been moved to
                entry["path"] = str(self._journal.path.parent / entry["path"])
        return batch

    def _connect(self) -> Store:
        journal = self._journal
        if not journal.locked:
            if not journal.lock():
                raise Busy("another process is delivering it")
            journal.locked = True
            journal.reload()
        if journal.first is None:
            raise ValueError(f"{journal.path}: no whole line says which run it is")
        before = self._delivered(journal)
        store = Store(self.uri)
        # An earlier version's journal has no uuid: the same one is made of the same start.
        known_by = journal.uuid or uuid5(NAMESPACE_OID, json.dumps(journal.first)).hex
        store.open_run(journal.first, known_by, before.run_id or self.run_id)
        here = before.run_id == store.run_id and before.end <= journal.size
        self.sent, self._refused = (before.end, before.refused) if here else (0, ())
        self._store, self.run_id = store, store.run_id
        self._doubtful = journal.size
        if not here:
            self._mark()
        return store

    def _delivered(self, journal: Journal) -> Delivered:
        before = journal.delivered
        return before if before and before.uri == shown(self.uri) else Delivered(shown(self.uri), "", 0)

    def _send(self, store: Store, batch: Batch) -> None:
        first = batch.entries[0]
        if self._is_gone(first):
            self._report_artifact(f"{first['path']} is gone before it could be logged")
        else:
            try:
                store.deliver(batch.entries, doubtful=self.sent < self._doubtful)
            except Exception as error:
                self._consider(store, batch, error)
        self.sent = batch.end
        self._tries = 0
        self._at_once = min(2 * self._at_once, ENTRIES_AT_ONCE)
        self._mark()

    def _consider(self, store: Store, batch: Batch, error: Exception) -> None:
        """Returns where a store that is well will never take the batch, a single entry: it is set aside."""
        first = batch.entries[0]
        if len(batch.entries) > 1:  # less may be answered in time, or only one of them be refused
            self._at_once = max(1, len(batch.entries) // 4)
            raise error
        try:
            store.check()
        except Exception:
            raise error from None  # the store is away, whatever was sent to it
        self._tries += 1
        if self._tries < TRIES or not (first["op"] == "artifact" or self._is_refusal(error)):
            raise error
        self._refused += (self.sent,)
        self._report_refused(first, error)

    def _is_refusal(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException, RestException

        # Of a server, only what itself says in JSON: a proxy's page says nothing of the entry.
        ours = RestException if is_remote(self.uri) else MlflowException
        return isinstance(error, ours) and error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

    def _report_refused(self, entry: Entry, error: Exception) -> None:
        if entry["op"] == "artifact":
            self._report_artifact(f"{entry['path']} can't be logged ({reason(error)})")
        else:
            self._report(f"MLflow: {_named(entry)} is refused ({reason(error)}); it stays in {self._journal.path}")

    def _report_artifact(self, said: str) -> None:
        if not self._artifacts_refused:
            self._artifacts_refused = True
            self._report(f"MLflow: {said}; artifacts stay where they are")

    def _is_gone(self, entry: Entry) -> bool:
        """Whether it is of a file that isn't there any more, or that another branch of the run has overwritten."""
        abandoned = self._journal.path.name != JOURNAL
        return entry["op"] == "artifact" and (abandoned or not Path(entry["path"]).is_file())

    def _mark(self) -> None:
        self._journal.mark(Delivered(shown(self.uri), self.run_id or "", self.sent, self._refused))


def deliver(path: Path, uri: str, report: Callable[[str], None], go_on: Callable[[], bool] = lambda: True) -> int:
    """Delivers the journal at `path`, and what was refused before; returns how many entries the store still lacks.

    `go_on` is asked before each batch. Raises whatever the store does, Busy where another process delivers it.
    """
    journal = Journal(path)
    try:
        delivery = Delivery(journal, uri, None, report)
        tries = 0
        while go_on():
            try:
                if not delivery.advance():
                    break
                tries = 0
            except Busy:
                raise
            except Exception:
                if (tries := tries + 1) >= 2 * TRIES or delivery.run_id is None:
                    raise
        refused = delivery.send_refused() if go_on() else 0
        return refused + journal.count(delivery.sent)
    finally:
        journal.close()


def reason(error: BaseException) -> str:
    """The innermost cause in one short line: MLflow wraps three libraries' messages into a page."""
    seen: set[int] = set()
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    text = shown((str(error) or type(error).__name__).splitlines()[0])
    return text if len(text) <= 160 else text[:159] + "…"


def _named(entry: Entry) -> str:
    values: dict[str, Any] = {"metrics": entry.get("metrics"), "tags": entry.get("tags")}
    names = ", ".join(values.get(entry["op"]) or ()) or entry.get("path", "")
    return f"{entry['op']} {names[:80]}".strip()
