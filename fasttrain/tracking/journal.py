"""The journal: everything a run logs, one JSON object a line, on the disk before any store has it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from fasttrain.files import fsync_folder

JOURNAL = "tracking.jsonl"
JOURNALS = "tracking*.jsonl"
"""Matches a run's journal, and those of what was abandoned in it: see `set_aside`."""
_CHUNK = 1 << 20
_MARK = b'{"op": "delivered"'

Entry: TypeAlias = dict[str, Any]
"""`op` is start, metrics, tags, artifact or finish; `time` is milliseconds since 1970."""


@dataclass(frozen=True)
class Delivered:
    """How far a store has got: its run `run_id` holds the journal's first `end` bytes, but for the entries that begin
    at the bytes `refused`."""

    uri: str
    run_id: str
    end: int
    refused: tuple[int, ...] = ()


class Batch(NamedTuple):
    """Entries of one `op`, of which only metrics come several at once, and the byte where the next one begins."""

    entries: list[Entry]
    end: int


class Waiting(NamedTuple):
    """What a journal says without being opened for writing: the store it is meant for, how many entries that lacks."""

    uri: str | None
    entries: int
    delivered: Delivered | None
    name: str | None


class Journal:
    """An append-only file of entries; safe to use from several threads, locked against other processes.

    A file that is there already is read first and continued; a last line torn by a kill is dropped, `garbled` counts
    the lines that are no entry. What cannot be written now (a full disk) stays in memory, is written with the next
    entry that can be, and `problem` says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self.first: Entry | None = None
        self.uuid: str | None = None
        self.delivered: Delivered | None = None
        self.garbled = 0
        self._logged: set[int] = set()
        self._unwritten = bytearray()
        self._unsynced = False
        self._lock = threading.Lock()
        self._file: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self.locked = self.lock()
            whole = self.reload()
            if self.locked:
                os.ftruncate(self._file, whole)
        except OSError as error:
            self.locked = True
            self.problem = f"{path}: {error.strerror or error}"

    @property
    def size(self) -> int:
        """Bytes, those that could not be written yet included."""
        return self._written() + len(self._unwritten)

    def lock(self) -> bool:
        """Whether this process alone delivers the journal: nobody else has it, or the file system knows no locks."""
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def append(self, entry: Entry) -> None:
        """Adds `entry`, given to the operating system: it outlives the process; a power cut only after `sync`."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            if entry["op"] == "start":
                self._begin(entry)
            self._unwritten += line
            self._write()

    def mark(self, delivered: Delivered) -> None:
        """Notes how far a store has got, so that whoever delivers next sends only the rest."""
        self.delivered = delivered
        self.append(
            {
                "op": "delivered",
                "uri": delivered.uri,
                "run_id": delivered.run_id,
                "end": delivered.end,
                "refused": list(delivered.refused),
            }
        )

    def holds(self, name: str, step: int, value: float) -> bool:
        """Whether the file had this metric when it was opened."""
        return _hash(name, step, value) in self._logged

    def read(self, start: int, limit: int) -> Batch:
        """The next entries from byte `start` on, `limit` metrics at most; none at the end of the journal."""
        entries: list[Entry] = []
        end = start
        for line in self._lines(start):
            entry = _parsed(line)
            if entry is not None and entry["op"] != "delivered":
                if entries and (entry["op"] != "metrics" or entries[0]["op"] != "metrics" or len(entries) >= limit):
                    break
                entries.append(entry)
            end += len(line)
        return Batch(entries, end)

    def count(self, start: int) -> int:
        """How many entries lie behind byte `start`."""
        return sum(not line.startswith(_MARK) for line in self._lines(start))

    def sync(self) -> None:
        """Brings what is written to the disk itself. It may take as long as the disk does."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, False
        if unsynced and self._file is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._file)

    def close(self) -> None:
        """Closes the file; a later `append` stays in memory."""
        with self._lock:
            if self._file is not None:
                self._write()
                with contextlib.suppress(OSError):
                    fcntl.flock(self._file, fcntl.LOCK_UN)  # forked workers have the file, too
                os.close(self._file)
                self._file = None

    def reload(self) -> int:
        """Reads the file anew; returns the length of its whole lines in bytes."""
        self.garbled, end = 0, 0
        for line in self._lines(0):
            end += len(line)
            entry = _parsed(line)
            if entry is None:
                self.garbled += 1
            elif entry["op"] == "delivered":
                self.delivered = _delivered(entry)
            elif entry["op"] == "metrics":
                self._logged.update(_hash(name, entry["step"], value) for name, value in entry["metrics"].items())
            elif entry["op"] == "start":
                self._begin(entry)
        return end

    def _begin(self, start: Entry) -> None:
        self.first = self.first or start
        self.uuid = self.uuid or start.get("uuid")

    def _lines(self, start: int) -> Iterator[bytes]:
        """Whole lines from byte `start` on."""
        rest = b""
        while True:
            with self._lock:
                data = os.pread(self._file, _CHUNK, start) if self._file is not None else b""
                if len(data) < _CHUNK:
                    begin = start + len(data) - self._written()
                    data += self._unwritten[begin:] if begin >= 0 else b""
            if not data:
                return
            start += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line + b"\n"

    def _written(self) -> int:
        return 0 if self._file is None else os.fstat(self._file).st_size

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._file, self._unwritten)]
                self._unsynced = True
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"
        else:
            self.problem = None


def journal_uuid(folder: Path) -> str | None:
    """The uuid of the journal in the run folder `folder`; None where there is no journal."""
    with contextlib.suppress(OSError), (folder / JOURNAL).open("rb") as lines:
        for line in lines:
            if (entry := _parsed(line)) and entry["op"] == "start":
                return entry.get("uuid")
    return None


def set_aside(folder: Path, tags: dict[str, str]) -> None:
    """Makes room for a new journal in the run folder `folder`. The old one gets `tags`, and its run ends.

    It is still delivered, but for its artifacts: the folder's files are no longer its own. OSError where the folder
    can't be written.
    """
    path = folder / JOURNAL
    if not path.exists():
        return
    entries = [entry for line in path.read_bytes().splitlines() if (entry := _parsed(line))]
    ended = [entry["op"] for entry in entries if entry["op"] != "delivered"][-1:] == ["finish"]
    now = int(time.time() * 1000)
    old = Journal(path)
    old.append({"op": "tags", "time": now, "tags": tags})
    if not ended:
        old.append({"op": "finish", "time": now, "status": "KILLED"})
    old.close()
    number = 1
    while (aside := folder / f"tracking-{number}.jsonl").exists():
        number += 1
    path.rename(aside)
    fsync_folder(folder)


def peek(path: Path) -> Waiting:
    """Looks into a journal that another process may be writing. Raises OSError."""
    text = path.read_bytes()
    first = next((entry for line in text.splitlines() if (entry := _parsed(line)) and entry["op"] == "start"), {})
    at = text.rfind(b"\n" + _MARK)
    entry = _parsed(text[at + 1 :].partition(b"\n")[0]) if at >= 0 else None
    delivered = _delivered(entry) if entry else None
    left = text[delivered.end if delivered else 0 :].split(b"\n")[:-1]
    waiting = sum(not line.startswith(_MARK) for line in left) + len(delivered.refused if delivered else ())
    return Waiting(delivered.uri if delivered else first.get("uri"), waiting, delivered, first.get("run_name"))


def _delivered(entry: Entry) -> Delivered:
    # An earlier version counted entries, not bytes: all are sent again, which changes nothing in the store.
    return Delivered(entry["uri"], entry["run_id"], entry.get("end", 0), tuple(entry.get("refused", ())))


def _parsed(line: bytes) -> Entry | None:
    """None for what a full disk or a hand has garbled."""
    try:
        entry = json.loads(line)
        needed = _FIELDS[entry["op"]]
        return entry if all(isinstance(entry[name], kind) for name, kind in needed.items()) else None
    except (ValueError, KeyError, TypeError):
        return None


def _hash(name: str, step: int, value: float) -> int:
    return hash((name, step, repr(value)))  # NaN is like no other NaN, its text is


_FIELDS: dict[str, dict[str, Any]] = {
    "start": {"time": int, "experiment": str, "run_name": str, "params": dict, "tags": dict},
    "metrics": {"time": int, "metrics": dict, "step": int},
    "tags": {"tags": dict},
    "artifact": {"path": str},
    "finish": {"time": int, "status": str},
    "delivered": {"uri": str, "run_id": str},
}
