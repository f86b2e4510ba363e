"""`tracking.json`: what trackers need to know about a run, besides the metrics in the folder's other files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from fasttrain.files import atomic_write_bytes
from fasttrain.tracking.names import epoch_metrics, final_metrics, old_epoch_metrics, old_final_metrics
from fasttrain.tracking.old_journal import JOURNAL, read_journal

RECORD = "tracking.json"
RUNNING = "RUNNING"
_FINAL = "evaluation"  # the key in `times` of the final metrics; the other keys are epochs


class Entry(NamedTuple):
    """A part of a run that is delivered to a tracker as a whole.

    `kind` is "params", "tags", "metrics" (those of one step), "artifact" (one file) or "status".
    """

    kind: str
    value: dict[str, Any]

    @property
    def key(self) -> str:
        """Return a digest of the content. An entry that changes gets another key."""
        return hashlib.blake2b(json.dumps(self, sort_keys=True).encode(), digest_size=8).hexdigest()


@dataclass
class Record:
    """What trackers need to know about a run, as stored in the file at `path`. Times are in milliseconds since 1970.

    `uri`: the MLflow store of the run. `run_id`: the run's id in that store, once it is known. `delivered`: the keys of
    the entries that the store has. `began`, `ended`: when the run began and ended. `ready`: False while the folder's
    other files are still those of an earlier run, which this run replaces. `artifacts`: the names of the files to
    deliver. `times`: when each epoch ended, by its number as text. `metrics`: rows of logged metrics that
    `history.json` and `evaluation.json` don't have. `files`: size, mtime in ns and digest of each artifact.
    `old_names`: whether the run keeps the names that an older version gave metrics. `mlflow`: False for a run without
    MLflow, which has nothing to deliver to a store.

    Two attributes are not in the file. `problem`: why the last `save` failed, or None. `shared`: whether another
    process may write the same file.
    """

    path: Path
    uuid: str
    experiment: str | None
    run_name: str
    params: dict[str, str]
    tags: dict[str, str]
    experiment_id: str | None = None
    uri: str | None = None
    run_id: str | None = None
    began: int = field(default_factory=lambda: now())
    ended: int | None = None
    status: str = RUNNING
    ready: bool = True
    artifacts: list[str] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    files: dict[str, list[Any]] = field(default_factory=dict)
    old_names: bool = False
    mlflow: bool = True

    def __post_init__(self) -> None:
        self.problem: str | None = None
        self.shared = False
        self.lock = threading.RLock()

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.path.parent

    @staticmethod
    def load(path: Path) -> Record | None:
        """Return the record in the file `path`, or None if there is none.

        If the file is missing, the record is made from an older version's journal (`tracking.jsonl`) beside it. Raises
        OSError or ValueError for a file that can't be read.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                return Record(path, **{"old_names": True, **json.loads(path.read_bytes())})
            except TypeError as error:
                raise ValueError(f"not a record of a run: {error}") from error
        journal = path.with_suffix(".jsonl")
        try:
            if not journal.is_file() or (found := read_journal(journal)) is None:
                return None
        except (KeyError, TypeError) as error:
            raise ValueError(f"a line of {journal.name} lacks {error}") from error
        fields, has_all = found
        record = Record(path, **fields, old_names=True)
        if has_all:
            record.delivered = [entry.key for entry in record.entries()]
        return record

    def write(self) -> None:
        """Write the file. Raises OSError if that fails."""
        with self.lock:
            plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "path"}
            atomic_write_bytes(self.path, json.dumps(plain, indent=1).encode() + b"\n")

    def save(self) -> None:
        """Write the file. If that fails, set `problem` to the reason; otherwise set it to None."""
        try:
            self.write()
            self.problem = None
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"

    def set_destination(self, uri: str, run_id: str) -> None:
        """Save the store and the MLflow run that this record is delivered to.

        If either of them has changed, all entries count as not delivered.
        """
        if (self.uri, self.run_id) != (uri, run_id):
            with self.lock:
                is_own = self._reload()
                self.uri, self.run_id, self.delivered = uri, run_id, []
                if is_own:
                    self.save()

    def mark_delivered(self, entries: Collection[Entry]) -> None:
        """Save that the store has `entries`, and drop the keys of entries that the run no longer holds."""
        with self.lock:
            is_own = self._reload()
            has = {*self.delivered, *(entry.key for entry in entries)}
            if self.ready:
                has &= {entry.key for entry in self.entries()}
            self.delivered = sorted(has)
            if is_own:
                self.save()

    def entries(self) -> list[Entry]:
        """Return everything that the record and the folder's files hold now, in the order of delivery.

        Raises OSError or ValueError for a file that can't be read.
        """
        with self.lock:
            metrics = list(self.metrics)
            if self.path.name == RECORD and self.ready:
                metrics += [*self._epoch_rows(), *self._final_rows()]
            status = Entry("status", {"status": self.status, "time": self.ended})
            return [
                *([status] if self.status == RUNNING else []),
                Entry("params", dict(self.params)),
                Entry("tags", dict(self.tags)),
                *(Entry("metrics", row) for row in metrics),
                *(self._artifacts() if self.ready else ()),
                *([status] if self.status != RUNNING else []),
            ]

    def missing(self) -> list[Entry]:
        """Return the entries that the MLflow store lacks. For a run without MLflow the list is empty.

        Raises OSError or ValueError for a file that can't be read.
        """
        if not self.mlflow:
            return []
        has = set(self.delivered)
        return [entry for entry in self.entries() if entry.key not in has]

    def update_times(self) -> None:
        """Add the time at which each new epoch in `history.json` ended to `times`.

        Epochs that are no longer in `history.json` are removed from `times`. The times are computed backwards from the
        last change of the file. Raises OSError or ValueError if the file can't be read.
        """
        history, times = self._history(), {}
        end = (self.folder / "history.json").stat().st_mtime * 1000 if history else 0.0
        for epoch in reversed(history):
            times[str(epoch["epoch"])] = self.times.get(str(epoch["epoch"]), int(end))
            end -= epoch.get("epoch_seconds", 0.0) * 1000
        evaluation = self.folder / "evaluation.json"
        if evaluation.exists():
            times[_FINAL] = self.times.get(_FINAL, int(evaluation.stat().st_mtime * 1000))
        self.times = times

    def catch_up(self) -> None:
        """Note that `history.json` or `evaluation.json` has changed: set `ready`, and update `times`."""
        with contextlib.suppress(OSError, ValueError), self.lock:  # reading the entries raises them again
            self.ready = True
            self.update_times()

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add `metrics` of `step` that no other file of the folder holds to the record.

        Values are anything that `float()` accepts, including NaN. A value that the record already has for the same
        metric and step, because the run was resumed, is not added again.
        """
        with self.lock:
            before = {
                (name, repr(each))
                for row in self.metrics
                if row["step"] == step
                for name, each in row["metrics"].items()
            }
            values = {name: float(value) for name, value in metrics.items()}
            if new := {name: value for name, value in values.items() if (name, repr(value)) not in before}:
                self.metrics.append({"step": step, "time": now(), "metrics": new})

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Add the names of the files at `paths`, which are in the run's folder, to the record."""
        names = [path.resolve().relative_to(self.folder.resolve()).as_posix() for path in paths]
        with self.lock:
            self.artifacts = list(dict.fromkeys([*self.artifacts, *names]))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Add `tags` to the record, with the values converted to text."""
        with self.lock:
            self.tags |= {name: str(value) for name, value in tags.items()}

    def end(self, status: str) -> None:
        """Set the final `status` of the run in the record, and the current time as the run's end."""
        with self.lock:
            self.status, self.ended = status, now()

    def keep_final_metrics(self) -> None:
        """Copy the metrics in `evaluation.json` that the store lacks into the record.

        Call this before a run continues, because that removes `evaluation.json`.
        """
        with contextlib.suppress(OSError, ValueError):
            self.metrics += [row for row in self._final_rows() if Entry("metrics", row).key not in self.delivered]

    def _reload(self) -> bool:
        """Take over what another process has written, except `uri`, `run_id` and `delivered`.

        Return False if the file now belongs to another run.
        """
        with contextlib.suppress(OSError, ValueError):
            if self.shared and (latest := Record.load(self.path)) is not None:
                if latest.uuid != self.uuid:
                    return False
                for name in self.__dataclass_fields__.keys() - {"path", "uri", "run_id", "delivered"}:
                    setattr(self, name, getattr(latest, name))
        return True

    def _epoch_rows(self) -> Iterator[dict[str, Any]]:
        history = self._history()
        if any(str(epoch["epoch"]) not in self.times for epoch in history):
            self.update_times()
        for epoch in history:
            values = old_epoch_metrics(epoch) if self.old_names else epoch_metrics(epoch)
            yield {"step": epoch["epoch"], "time": self.times[str(epoch["epoch"])], "metrics": values}

    def _final_rows(self) -> Iterator[dict[str, Any]]:
        path = self.folder / "evaluation.json"
        if evaluation := read_json(path, {}):
            written = self.times.get(_FINAL, int(path.stat().st_mtime * 1000))
            values = old_final_metrics(evaluation) if self.old_names else final_metrics(evaluation)
            yield {"step": len(self._history()), "time": written, "metrics": values}

    def _history(self) -> list[dict[str, Any]]:
        history: list[dict[str, Any]] = read_json(self.folder / "history.json", [])
        return history

    def _artifacts(self) -> Iterator[Entry]:
        for name in self.artifacts:
            with contextlib.suppress(OSError):
                yield Entry("artifact", {"name": name, "digest": self._digest(name)})

    def _digest(self, name: str) -> str:
        """Return a digest of the artifact's content. The file is only read if its size or mtime has changed."""
        path = self.folder / name
        found = path.stat()
        size, written, digest = self.files.get(name, (None, None, ""))
        if (size, written) != (found.st_size, found.st_mtime_ns):
            content = hashlib.blake2b(digest_size=8)
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    content.update(chunk)
            digest = content.hexdigest()
            self.files[name] = [found.st_size, found.st_mtime_ns, digest]
        return digest


def record_files(folder: Path, *places: str) -> list[Path]:
    """Return the paths of all records in `folder`, or with `places` in the subfolders that match these patterns.

    A pattern ends in "/", such as "*/"; "" stands for `folder`. Older versions of
    fasttrain wrote a journal, `.jsonl`, in place of the record. For a journal, the path has the suffix `.json`, even if
    that file doesn't exist yet.
    """
    found = (path for place in places or ("",) for path in folder.glob(f"{place}tracking*.json*"))
    return sorted({path.with_suffix(".json") for path in found if path.suffix in (".json", ".jsonl")})


def record_uuid(folder: Path) -> str | None:
    """Return the UUID of the run in `folder`, or None if it has no readable record."""
    with contextlib.suppress(OSError, ValueError):
        record = Record.load(folder / RECORD)
        return record.uuid if record else None
    return None


def set_aside(folder: Path, tags: Mapping[str, str]) -> str | None:
    """Move the record of the run in `folder` to `tracking-N.json`, so that a new MLflow run can begin in the folder.

    The old run gets `tags`, keeps its metrics, and ends as KILLED if it was still running. Its record is still
    delivered, but without artifacts, because the folder's files will be those of the new run. Returns the old run's
    experiment, or None if that is unknown. Raises OSError if the folder can't be written.
    """
    number = 1
    while any((folder / f"tracking-{number}{suffix}").exists() for suffix in (".json", ".jsonl")):
        number += 1
    record = None
    with contextlib.suppress(ValueError):  # a damaged record has nothing to keep
        record = Record.load(folder / RECORD)
    if record is not None:
        with contextlib.suppress(ValueError):  # the history is damaged
            record.metrics = [entry.value for entry in record.entries() if entry.kind == "metrics"]
        record.path, record.artifacts, record.tags = folder / f"tracking-{number}.json", [], {**record.tags, **tags}
        if record.status == RUNNING:
            record.status, record.ended = "KILLED", now()
        record.write()
    (folder / RECORD).unlink(missing_ok=True)
    if (folder / JOURNAL).exists():
        (folder / JOURNAL).rename(folder / f"tracking-{number}.jsonl")
    return record.experiment if record is not None else None


def read_json(path: Path, otherwise: Any) -> Any:
    """Return the JSON value in the file `path`, or `otherwise` if the file is missing.

    Raises OSError or ValueError for a file that can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return otherwise


def now() -> int:
    """Return the current time in milliseconds since 1970."""
    return int(time() * 1000)
