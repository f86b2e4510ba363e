"""Read tracked runs back from MLflow or from their folders."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.config.load import read_toml
from fasttrain.config.location import user_path
from fasttrain.config.monitor import MONITORS, Monitor
from fasttrain.errors import UserError
from fasttrain.text import nearest
from fasttrain.tracking.database import database_file
from fasttrain.tracking.lock import is_locked
from fasttrain.tracking.names import EPOCH, current_name, current_names, epoch_metrics, final_metrics
from fasttrain.tracking.record import RECORD, Record, read_json, record_files
from fasttrain.tracking.sqlite_client import sqlite_client
from fasttrain.tracking.store import Store, configured_uri, is_remote, set_environment, shown
from fasttrain.tracking.sync import waiting_records

if TYPE_CHECKING:
    from mlflow.entities import Run

RATE = "speed/images_per_second"
CURVES = (
    "val/top1",
    "val/loss",
    RATE,
    "val/map",
    "train/top1",
    "train/loss",
    "train/learning_rate",
    "speed/wait_share",
)
_LISTED = CURVES[:3]
SORTS = ("start", "name", "model", "val/top1", "test/top1", "epochs", RATE, "duration")
_STATUS = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
_PAGE = 1000
_SILENT_S = 600.0  # a run counts as silent after this many seconds, and no less than three epochs


@dataclass(frozen=True)
class TrackedRun:
    """A run, read from MLflow or from its folder.

    `status`: "running", "finished", "failed" or "killed" (by Ctrl-C or SIGTERM). `params`: the settings as text.
    `metrics`: the last value of each metric, by name. `curves`: for some metrics, by name, the values by epoch, from 1.
    `start`, `heard`: the start and the last sign of life, in seconds since 1970. `alive`: whether a process trains in
    the run's folder. `error`: a line about why the run failed, or "". `waiting`: the number of entries that the MLflow
    store lacks. `run_id`, `experiment`, `start` and `heard` may be None if the run is only known from its folder.
    """

    name: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Mapping[int, float]]
    folder: Path | None = None
    run_id: str | None = None
    experiment: str | None = None
    start: float | None = None
    heard: float | None = None
    alive: bool = False
    error: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    waiting: int = 0

    @property
    def epochs(self) -> int:
        """Return the number of finished epochs."""
        return max(self.curves.get("val/loss", ()), default=0)

    @property
    def best_epoch(self) -> int | None:
        """Return the number, from 1, of the epoch that is best by the run's `monitor`, or None if it is unknown.

        If several epochs are equally good, it is the first of them.
        """
        monitor = _monitor(self.params)
        curve = self.curves.get(EPOCH[monitor.field], {})
        if not curve:
            return None
        sign = -1 if monitor.greater_is_better else 1
        return min(sorted(curve), key=lambda epoch: sign * curve[epoch])

    def at_best(self, metric: str) -> float | None:
        """Return the value of `metric` in the best epoch, or None if the epoch or the value is unknown."""
        best = self.best_epoch
        return None if best is None else self.curves.get(metric, {}).get(best)

    def mean(self, metric: str) -> float | None:
        """Return the mean of `metric` over all epochs, or None if no epoch has that metric."""
        values = list(self.curves.get(metric, {}).values())
        return sum(values) / len(values) if values else None

    @property
    def silent(self) -> bool:
        """Return whether a run marked as running was probably killed.

        That is so if no process trains in its folder, and the last sign of life is older than ten minutes and than
        three epochs.
        """
        if self.status != "running" or self.heard is None or self.alive:
            return False
        return time.time() - self.heard > max(_SILENT_S, 3 * self.metrics.get("speed/epoch_seconds", 0.0))

    @property
    def seconds(self) -> float | None:
        """Return the training time in seconds, or None if it is unknown.

        For a run that hasn't finished, it is the time from the start to now, or if no process trains any more, to the
        last sign of life.
        """
        if (logged := self.metrics.get("speed/training_seconds")) is not None:
            return logged
        if self.start is None or self.heard is None:
            return None
        return (time.time() if self.alive else self.heard) - self.start

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `fasttrain runs --json` prints. Times are in ISO 8601, UTC."""
        asked = self.params.get("epochs")
        return {
            "experiment": self.experiment,
            "name": self.name,
            "run_id": self.run_id,
            "status": self.status,
            "silent": self.silent,
            "error": self.error,
            "model": self.params.get("model"),
            "loader": self.params.get("loader"),
            "val_best/epoch": self.best_epoch,
            "val/top1": self.at_best("val/top1"),
            "test/top1": self.metrics.get("test/top1"),
            "epochs": self.epochs,
            "epochs_asked": int(asked) if asked else None,
            RATE: self.mean(RATE),
            "duration": self.seconds,
            "start": _iso(self.start),
            "heard": _iso(self.heard),
            "folder": str(self.folder) if self.folder else None,
            "waiting": self.waiting,
        }


def tracking_uri() -> str:
    """Return the URI of the store that has the runs: $MLFLOW_TRACKING_URI, or `mlflow.db` in the working directory.

    Raises UserError if MLflow doesn't support such a store, or if a local database doesn't exist.
    """
    uri = configured_uri()
    if (path := database_file(uri)) is not None and not path.is_file():
        raise UserError(f"{path}: no runs are tracked here; go to the folder you train in, or set MLFLOW_TRACKING_URI")
    return uri


def list_runs(
    uri: str | None = None, *, experiment: str | None = None, sort: str = "start", limit: int | None = None
) -> list[TrackedRun]:
    """Return the runs in the store at `uri` (default: `tracking_uri()`), at most `limit`.

    `sort` is one of SORTS: "start" puts the newest run first, "name" and "model" sort from a to z, and the others put
    the greatest value first. Raises UserError for an unknown experiment or `sort`, or if the store doesn't answer.
    """
    sort = {"test_top1": "test/top1"}.get(sort, current_name(sort))  # names of older versions
    if sort not in SORTS:
        raise UserError(f"sort = '{sort}' is not one of {', '.join(SORTS)}{nearest(sort, list(SORTS))}")
    reader = _Reader(uri or tracking_uri())
    found = reader.runs(experiment, limit if sort == "start" else None)
    runs = [reader.tracked(each, _LISTED) for each in found]
    if sort in ("name", "model"):
        runs.sort(key=lambda run: str(run.to_dict()[sort] or "~"))
    elif sort != "start":
        runs.sort(key=lambda run: -(run.to_dict()[sort] or 0.0))
    return runs[:limit]


def find_runs(names: Sequence[str], uri: str | None = None) -> list[TrackedRun]:
    """Return one run per name. A name is a run folder, an MLflow run id, a run name, or the beginning of an id or name.

    `uri`: the MLflow store, by default `tracking_uri()`. Raises UserError if a name matches no run or several runs. The
    message lists the most similar names, or the ids of these runs.
    """
    reader: _Reader | None = None
    everything: list[Run] = []
    found = []
    for name in names:
        if is_run_folder(folder := user_path(name)):
            found.append(run_of_folder(folder))
            continue
        if reader is None:
            try:
                reader = _Reader(uri or tracking_uri())
            except UserError as error:
                raise UserError(f"'{name}' is not a run folder, and {error}") from error
            everything = reader.runs(None, None)
        found.append(reader.tracked(_matching(name, everything), CURVES))
    return found


def is_run_folder(path: Path) -> bool:
    """Return whether `path` is the folder of a run: it holds `config.toml` or `history.json`."""
    return (path / "config.toml").is_file() or (path / "history.json").is_file()


def run_of_folder(path: Path) -> TrackedRun:
    """Return the run in the folder `path`, even if it was not tracked. Raises UserError if a file can't be read."""
    config = read_toml(path / "config.toml") if (path / "config.toml").is_file() else {}
    record = _readable(path / RECORD, Record.load)
    history = _readable(path / "history.json", lambda file: read_json(file, []))
    evaluation = _readable(path / "evaluation.json", lambda file: read_json(file, {}))
    metrics = final_metrics(evaluation) if evaluation else {}
    rows = {each["epoch"]: epoch_metrics(each) for each in history}
    last = rows[max(rows)] if rows else {}
    metrics |= {name: last[name] for name in ("speed/epoch_seconds",) if name in last}
    params = {name: str(value) for name, value in config.items()} | (record.params if record else {})
    wanted = dict.fromkeys((*CURVES, EPOCH[_monitor(params).field]))
    points = {name: {epoch: row[name] for epoch, row in rows.items() if name in row} for name in wanted}
    status = "finished" if evaluation else _STATUS[record.status if record else "RUNNING"]
    files = [file for name in (RECORD, "history.json") if (file := path / name).exists()]
    return TrackedRun(
        name=path.resolve().name,
        status=status,
        params=params,
        metrics=metrics,
        curves={name: curve for name, curve in points.items() if curve},
        folder=path.resolve(),
        experiment=record.experiment if record else None,
        start=record.began / 1000 if record else None,
        heard=max((file.stat().st_mtime for file in files), default=None),
        alive=status == "running" and is_locked(path),
        tags=record.tags if record else {},
    )


def waiting_runs(folder: Path) -> list[TrackedRun]:
    """Return the runs in and below `folder` that the MLflow store has not received completely, from their folders.

    A run that is still training is left out if the store has it, because it delivers its own entries.
    """
    runs = []
    for record, missing in waiting_records(record_files(folder, "", "*/**/")):
        try:
            run = run_of_folder(record.folder)
        except UserError as error:
            place = record.folder.resolve()
            run = TrackedRun(place.name, "failed", {}, {}, {}, place, error=str(error))
        if not (run.alive and record.run_id) and not _is_study(record.tags):
            runs.append(replace(run, name=record.run_name, run_id=record.run_id, waiting=missing))
    return runs


class _Reader:
    """Reads one MLflow store. Any error of the store is raised as a UserError of one line."""

    def __init__(self, uri: str) -> None:
        set_environment()
        self.uri = uri
        self._client: Any = sqlite_client(uri) or self._queried(lambda: Store(uri).client)
        self._experiments: dict[str, str] = {}

    def runs(self, experiment: str | None, limit: int | None) -> list[Run]:
        """Return at most `limit` runs of `experiment`, or of all experiments, the newest first."""
        client = self._client
        every = self._queried(lambda: list(_pages(client.search_experiments)))
        self._experiments = {each.experiment_id: each.name for each in every}
        wanted = [number for number, name in self._experiments.items() if experiment in (None, name)]
        if experiment is not None and not wanted:
            names = list(self._experiments.values())
            hint = nearest(experiment, names)
            raise UserError(f"experiment = '{experiment}': {shown(self.uri)} has no such experiment{hint}")
        if not wanted:
            return []
        order = ["attributes.start_time DESC"]
        found = _pages(lambda **page: client.search_runs(wanted, order_by=order, **page))
        # The trials of a `tune` study are training runs, the study itself is not.
        return self._queried(lambda: list(islice((run for run in found if not _is_study(run.data.tags)), limit)))

    def tracked(self, run: Run, curves: Iterable[str]) -> TrackedRun:
        """Return MLflow's `run` with the curves of the metrics named in `curves`, and of the run's monitor."""
        tags = run.data.tags
        changed = {name[len("changed.") :]: value for name, value in tags.items() if name.startswith("changed.")}
        params = {**run.data.params, **changed}
        wanted = dict.fromkeys((*curves, EPOCH[_monitor(params).field]))
        stored = {current_name(name): name for name in run.data.metrics}
        here = {name: stored[name] for name in wanted if name in stored}
        history = self._client.get_metric_history
        points = self._queried(lambda: {name: history(run.info.run_id, old) for name, old in here.items()})
        last = max((point.timestamp for metric in points.values() for point in metric), default=0)
        heard = max(run.info.start_time, run.info.end_time or 0, last) / 1000
        folder = Path(tags["run_folder"]) if "run_folder" in tags else None
        if run.info.end_time is None and folder is not None and (folder / RECORD).exists():
            heard = max(heard, (folder / RECORD).stat().st_mtime)
        return TrackedRun(
            name=run.info.run_name or run.info.run_id,
            status=_STATUS[run.info.status],
            params=params,
            metrics=current_names(run.data.metrics),
            curves={name: {point.step: point.value for point in metric} for name, metric in points.items()},
            folder=folder,
            run_id=run.info.run_id,
            experiment=self._experiments.get(run.info.experiment_id),
            start=run.info.start_time / 1000,
            heard=heard,
            alive=run.info.status == "RUNNING" and folder is not None and is_locked(folder),
            error=tags.get("error", "") if run.info.status == "FAILED" else "",
            tags=tags,
        )

    def _queried(self, query: Any) -> Any:
        """Return `query()`. Raises UserError if the store fails."""
        try:
            return query()
        except Exception as error:  # errors of MLflow, requests or SQLAlchemy, and OSError
            reason = re.sub(r"\s+", " ", str(error).strip().splitlines()[0] if str(error).strip() else "")
            fix = "check that the server runs" if is_remote(self.uri) else "check the file"
            raise UserError(f"{shown(self.uri)}: {reason[:200] or type(error).__name__}; {fix}") from error


def _pages(search: Any) -> Iterator[Any]:
    """Yield the results on all pages of MLflow's `search`."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _monitor(params: Mapping[str, str]) -> Monitor:
    return MONITORS.get(params.get("monitor", "val_loss"), MONITORS["val_loss"])


def _is_study(tags: Mapping[str, str]) -> bool:
    """Return whether these are the tags of a study of `fasttrain tune`, and not of one of its trials."""
    return "study" in tags and "trial" not in tags


def _matching(name: str, runs: Sequence[Run]) -> Run:
    """Return the only run whose id or name is `name` or begins with it. Raises UserError if none or several do."""
    matches = [run for run in runs if name in (run.info.run_id, run.info.run_name)]
    if not matches and name:
        matches = [run for run in runs if (run.info.run_name or "").startswith(name)]
        matches += [run for run in runs if len(name) >= 4 and run.info.run_id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(f"{run.info.run_id[:8]} ({run.info.run_name})" for run in matches[:3])
        more = " ..." if len(matches) > 3 else ""
        raise UserError(f"'{name}' matches {len(matches)} runs; give the beginning of an id: {ids}{more}")
    names = list(dict.fromkeys(run.info.run_name or "" for run in runs))
    close = [each for each in names if name.lower() in each.lower()][:3]
    close = close or difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    hint = f"the nearest names: {', '.join(close)}" if close else "no runs are tracked in this store"
    raise UserError(f"'{name}' is neither a run folder nor a tracked run; {hint} (`fasttrain runs` lists all)")


def _readable(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); repair the file, or remove it") from error


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
