"""Read runs from MLflow's SQLite file without MLflow, which takes seconds to import."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from fasttrain.tracking.database import database_file

T = TypeVar("T")
_COLUMNS = {
    "experiments": "experiment_id, name, lifecycle_stage",
    "runs": "run_uuid, name, experiment_id, status, start_time, end_time, lifecycle_stage",
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, is_nan",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
}
"""The columns that are read of each table."""


class Page(list[T]):
    """A page of search results with the token of the next page, like MLflow's `PagedList`."""

    token: str | None = None


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment. The fields have the names of those of `mlflow.entities.Experiment`."""

    experiment_id: str
    name: str


@dataclass(frozen=True)
class StoredInfo:
    """A run's identity and state. The fields have the names of those of `mlflow.entities.RunInfo`."""

    run_id: str
    run_name: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None


@dataclass(frozen=True)
class StoredData:
    """A run's logged values. The fields have the names of those of `mlflow.entities.RunData`."""

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


@dataclass(frozen=True)
class StoredPoint:
    """One value of a metric. The fields have the names of those of `mlflow.entities.Metric`."""

    step: int
    timestamp: int
    value: float


class StoredRun:
    """A run. `info` and `data` are as in `mlflow.entities.Run`; `data` is read from the file when first accessed."""

    def __init__(self, info: StoredInfo, connection: sqlite3.Connection) -> None:
        self.info, self._connection = info, connection

    @cached_property
    def data(self) -> StoredData:
        """Return the run's params, tags and the last value of each metric."""
        metrics = self._rows("latest_metrics", "key, value, is_nan")
        return StoredData(
            dict(self._rows("params", "key, value")),
            {key: _number(value, is_nan) for key, value, is_nan in metrics},
            dict(self._rows("tags", "key, value")),
        )

    def _rows(self, table: str, columns: str) -> list[Any]:
        found = self._connection.execute(f"SELECT {columns} FROM {table} WHERE run_uuid = ?", (self.info.run_id,))
        return found.fetchall()


class SqliteClient:
    """The searches of `mlflow.MlflowClient` that `fasttrain runs` needs, on a SQLite file, with the same results.

    Raises sqlite3.Error if the file isn't MLflow's, or has other columns.
    """

    def __init__(self, uri: str) -> None:
        file = database_file(uri)
        if file is None:
            raise sqlite3.NotSupportedError(uri)
        self._connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        for table, columns in _COLUMNS.items():
            self._connection.execute(f"SELECT {columns} FROM {table} LIMIT 0")

    def search_experiments(self, **_: Any) -> Page[StoredExperiment]:
        """Return the experiments that are not deleted, on one page."""
        found = self._connection.execute("SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active'")
        return Page(StoredExperiment(str(number), name) for number, name in found)

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        order_by: Sequence[str] = (),
        max_results: int = 1000,
        page_token: str | None = None,
    ) -> Page[StoredRun]:
        """Return a page of the runs in these experiments that are not deleted, newest first. `order_by` is ignored."""
        begin, marks = int(page_token or 0), ", ".join("?" * len(experiment_ids))
        found = self._connection.execute(
            "SELECT run_uuid, coalesce(name, ''), experiment_id, status, start_time, end_time FROM runs "
            f"WHERE lifecycle_stage = 'active' AND experiment_id IN ({marks}) "
            "ORDER BY start_time DESC, run_uuid LIMIT ? OFFSET ?",
            (*map(int, experiment_ids), max_results, begin),
        )
        infos = [StoredInfo(run, name, str(number), *rest) for run, name, number, *rest in found]
        page = Page(StoredRun(info, self._connection) for info in infos)
        page.token = str(begin + max_results) if len(page) == max_results else None
        return page

    def get_metric_history(self, run_id: str, key: str) -> list[StoredPoint]:
        """Return all values of the metric `key` of a run, sorted by time."""
        found = self._connection.execute(
            "SELECT step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ? AND key = ? "
            "ORDER BY timestamp, step, value",
            (run_id, key),
        )
        return [StoredPoint(step, time, _number(value, is_nan)) for step, time, value, is_nan in found]


def sqlite_client(uri: str) -> SqliteClient | None:
    """Return a client for the SQLite file at `uri`, or None if `uri` isn't a SQLite file that this client can read.

    If the result is None, use MLflow's own client, which reads all stores and reports errors.
    """
    try:
        return SqliteClient(uri)
    except sqlite3.Error:
        return None


def _number(value: float, is_nan: bool) -> float:
    return math.nan if is_nan else float(value)
