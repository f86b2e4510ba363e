"""The journal: everything a run logs, one JSON object a line, on the disk before any store has it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

Entry: TypeAlias = dict[str, Any]
"""`op` is start, metrics, tags, artifact or finish; `time` is milliseconds since 1970."""


@dataclass(frozen=True)
class Delivered:
    """How far a store has got: it holds the first `entries` entries as its run `run_id`."""

    uri: str
    run_id: str
    entries: int


class Journal:
    """An append-only list of entries; safe to use from several threads.

    A journal that is there already is read first and continued, a last line torn by a kill is dropped. Where
    the file cannot be written, the entries stay in memory and `problem` says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self.delivered: Delivered | None = None
        self.entries: list[Entry] = []
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        try:
            whole = self._read()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
            self._file.truncate(whole)
        except OSError as error:
            self._give_up(error)

    def append(self, entry: Entry) -> None:
        """Adds `entry`, flushed to the operating system: it outlives the process, if not a power cut."""
        with self._lock:
            self._write(entry)
            self.entries.append(entry)

    def mark_delivered(self, delivered: Delivered) -> None:
        """Notes how far a store has got, so that a resumed run sends only the rest."""
        with self._lock:
            self.delivered = delivered
            self._write(
                {
                    "op": "delivered",
                    "uri": delivered.uri,
                    "run_id": delivered.run_id,
                    "entries": delivered.entries,
                }
            )

    def close(self) -> None:
        """Closes the file; a later `append` stays in memory."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _read(self) -> int:
        """Takes in the whole lines of the file; returns their length in bytes."""
        whole, garbled = 0, False
        if not self.path.exists():
            return whole
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                entry = json.loads(line)
                if entry["op"] == "delivered":
                    self.delivered = Delivered(entry["uri"], entry["run_id"], entry["entries"])
                else:
                    self.entries.append(entry)
            except (ValueError, KeyError, TypeError):  # garbled by a full disk: the other lines still count
                garbled = True
        if garbled and self.delivered is not None:
            # The count is off by the lost lines; sending twice is harmless.
            self.delivered = replace(self.delivered, entries=0)
        return whole

    def _write(self, entry: Entry) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.problem = f"{self.path}: {error.strerror or error}"
        self._file = None
