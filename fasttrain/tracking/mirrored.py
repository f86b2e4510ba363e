"""Start the trackers of a run: MLflow, others, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from fasttrain.config.trackers import MLFLOW, TRACKERS, Trackers
from fasttrain.extras import require
from fasttrain.files import make_folder
from fasttrain.tracking.begin import begin_record
from fasttrain.tracking.lock import FolderLock
from fasttrain.tracking.mirror import Mirror
from fasttrain.tracking.record import Record
from fasttrain.tracking.tracker import NullTracker, Tracker


def require_trackers(trackers: Trackers) -> None:
    """Raise UserError if a tracker isn't installed. The message names the extra that installs it."""
    for name in _others(trackers):
        require(f"--track {name}", name, *_class(name).needs)


def start_trackers(
    trackers: Trackers,
    *,
    experiment: str | None,
    run_name: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    folder: Path,
    report: Callable[[str], None],
    **mlflow: Any,
) -> NullTracker:
    """Start or continue the run in `folder` with each of `trackers`. Return one tracker that stands for all of them.

    If `trackers` is empty, the returned tracker does nothing. The other arguments are those of `Tracker.start`.
    `mlflow`: arguments of `Tracker.start` that only MLflow needs, such as `uri` and `run_id`.
    """
    if not trackers:
        return NullTracker()
    given: dict[str, Any] = {"experiment": experiment, "run_name": run_name, "params": params, "tags": tags}
    given |= {"folder": folder, "report": report}
    base: Tracker | RecordOnly
    if MLFLOW in trackers.names:
        base = Tracker.start(**given, **mlflow)
    else:
        record, is_new = begin_record(**given, uuid=mlflow.get("uuid"))
        if is_new:  # a run that was tracked in MLflow before is still delivered by `fasttrain runs --deliver`
            record.mlflow = False
        with suppress(OSError):  # saving the record reports it
            make_folder(folder)
        base = RecordOnly(record, report)
    others = [_class(name)(base.record, report) for name in _others(trackers)]
    return Mirrored(base, others) if others else base


class RecordOnly(NullTracker):
    """The tracker of a run without MLflow: it only writes the record in the run's folder, which other trackers read."""

    def __init__(self, record: Record, report: Callable[[str], None]) -> None:
        self.record, self.uuid = record, record.uuid
        self._report = report
        self._lock = FolderLock(record.folder)
        self._lock.take()
        self._save()

    def sync(self) -> None:
        self.record.catch_up()
        self._save()

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        self.record.log_metrics(metrics, step)
        self._save()

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        self.record.log_artifacts(paths)
        self._save()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.record.set_tags(tags)
        self._save()

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        super().finish(status, timeout)
        self.record.end(status)
        self._save()
        self._lock.release()

    def _save(self) -> None:
        before = self.record.problem
        self.record.save()
        if self.record.problem is not None and before is None:
            lost = "the run continues, but a resumed run may send some entries again"
            self._report(f"the record for the trackers can't be saved ({self.record.problem}); {lost}")


class Mirrored(NullTracker):
    """Tracks a run with several trackers.

    `base`: the tracker that writes the run's record, with or without MLflow. `others`: the trackers that deliver what
    is new in that record.
    """

    def __init__(self, base: Tracker | RecordOnly, others: Sequence[Mirror]) -> None:
        self._base, self._others = base, others
        self._begun = self._finished = False
        self.uri, self.uuid = base.uri, base.uuid

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        """Return the run's id in MLflow, or None if it is not known yet or MLflow isn't used."""
        return self._base.run_id

    @property
    def places(self) -> Mapping[str, str]:  # type: ignore[override]
        """Return where people find the run at each tracker but MLflow, by the tracker's display name.

        The place is a URL, a command that shows or uploads the run, or "not opened yet".
        """
        return {each.title: each.where() for each in self._others}

    def begin(self) -> None:
        """Start the threads that deliver the run. Call this after the first step, because their imports slow it."""
        self._base.begin()
        if not self._begun:
            self._begun = True
            for each in self._others:
                each.start()

    def wait_for_run(self, timeout: float | None = None) -> str | None:
        return self._base.wait_for_run(timeout)

    def sync(self) -> None:
        self._base.sync()
        self._notify()

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        self._base.log_metrics(metrics, step)
        self._notify()

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        self._base.log_artifacts(paths)
        self._notify()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._base.set_tags(tags)
        self._notify(begin=False)

    def finish(self, status: str = "FINISHED", timeout: float | None = None) -> None:
        if self._finished:
            return
        self._finished = True
        self.begin()
        for each in self._others:
            each.finish(status)
        self._base.finish(status, timeout)
        for each in self._others:
            each.wait()

    def _notify(self, *, begin: bool = True) -> None:
        if begin:
            self.begin()
        for each in self._others:
            each.notify()


def _others(trackers: Trackers) -> Iterable[str]:
    return (name for name in trackers.names if name != MLFLOW)


def _class(name: str) -> type[Mirror]:
    module, _, attribute = TRACKERS[name].partition(":")
    found: type[Mirror] = getattr(import_module(module), attribute)
    return found
