"""One MLflow store (a server or a local SQLite file), and one run in it."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fasttrain.errors import UserError
from fasttrain.text import counted, nearest, read_text
from fasttrain.tracking.database import database_file, make_database, quoted, without_stray_folders
from fasttrain.tracking.record import RUNNING, Entry, Record

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

# MLflow's limits (mlflow.utils.validation). It refuses or silently cuts anything longer.
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
KEY_LENGTH = 250

UUID = "fasttrain.uuid"
"""The tag that identifies a run, even if the response to the request that created it was lost."""

# `sync` retries by itself. MLflow's own retries (7 by default) would repeat a `create_run` whose response was lost. A
# server may take half a minute to respond. Values set by the user take precedence.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "40",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc")
"""The URI schemes of MLflow's stores, besides folders and plugins."""

_opening = threading.Lock()


def local_uri(folder: Path | None = None) -> str:
    """Return the URI of the SQLite file `mlflow.db` in `folder` (default: the working directory)."""
    return f"sqlite:///{quoted((folder or Path.cwd()).resolve() / 'mlflow.db')}"


def configured_uri() -> str:
    """Return $MLFLOW_TRACKING_URI, or the URI of `mlflow.db` in the working directory.

    Raises UserError if MLflow doesn't support such a store.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or local_uri()
    require_store(uri)
    return uri


def is_remote(uri: str) -> bool:
    """Return whether the store at `uri` is reached over a network."""
    return urlsplit(uri).scheme in ("http", "https", "databricks", "databricks-uc")


def shown(uri: str) -> str:
    """Return `uri` without user name, password and token, for messages and logs. An @ in a file's path stays."""
    bare = re.sub(r"(?<!/)//(?!/)[^?#\s]*@", "//", uri)
    return re.sub(r"([?&](?:\w*password|\w*token)=)[^&#\s]*", r"\1…", bare)


def require_store(uri: str) -> None:
    """Raise UserError if MLflow doesn't support the kind of store at `uri`, since retrying would not help."""
    scheme = uri if uri in _SCHEMES else urlsplit(uri).scheme.partition("+")[0]
    if scheme in _SCHEMES or scheme in entry_points(group="mlflow.tracking_store").names:
        return
    given = f"MLFLOW_TRACKING_URI = {shown(uri)}"
    ways = "give http://HOST:PORT or sqlite:////FOLDER/mlflow.db, or unset the variable to use ./mlflow.db"
    if scheme not in ("", "file"):
        raise UserError(f"{given}: MLflow doesn't know the scheme '{scheme}'{nearest(scheme, list(_SCHEMES))}; {ways}")
    if not _keeps_runs_in_folders():
        raise UserError(f"{given}: MLflow no longer keeps runs in folders; {ways}, or set MLFLOW_ALLOW_FILE_STORE=true")


def _keeps_runs_in_folders() -> bool:
    """Return whether the installed MLflow, with these environment variables, can keep runs in a folder."""
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
        return True
    found = importlib.util.find_spec("mlflow")
    if found is None or found.origin is None:
        return True
    return "MLFLOW_ALLOW_FILE_STORE" not in read_text(Path(found.origin).with_name("environment_variables.py"))


def artifact_location(uri: str) -> str | None:
    """Return the URI of the folder `mlartifacts` beside the SQLite file `uri`.

    Returns None for any other store, which chooses the place of artifacts itself.
    """
    file = database_file(uri)
    return (file.resolve().parent / "mlartifacts").as_uri() if file else None


def set_environment() -> None:
    """Set MLflow's variables for time-outs, retries and verbosity in os.environ. Those that are set already stay."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def home_for_mlflow() -> dict[str, str]:
    """Return the environment variables that MLflow's import needs: {} or, without a home folder, {"HOME": a folder}.

    An account has no home folder under `docker run --user 12345`, for example.
    """
    has_home = Path(os.path.expanduser("~")).is_absolute()  # noqa: PTH111 - Path's raises
    return {} if has_home else {"HOME": tempfile.gettempdir()}


@contextmanager
def importing_mlflow() -> Iterator[None]:
    """Set the variables of `home_for_mlflow` within this context. Import MLflow in it."""
    before, added = os.environ.get("HOME"), home_for_mlflow()
    os.environ.update(added)
    try:
        yield
    finally:
        if added:
            del os.environ["HOME"]
            os.environ.update({"HOME": before} if before is not None else {})


class NotStored(Exception):
    """Raised if a store has accepted something but doesn't have it afterwards."""


class Store:
    """A run in one MLflow store. Every call may block for as long as MLflow's time-outs allow.

    Every call may raise mlflow.exceptions.MlflowException, OSError, NotStored or errors of the database. The caller
    should then try again later.
    """

    def __init__(self, uri: str) -> None:
        # Alembic keeps process-wide state while it creates a database.
        with _opening, importing_mlflow(), without_stray_folders(uri):
            from mlflow.tracking import MlflowClient

            # After the import, in which MLflow configures its loggers.
            for name in ("mlflow.store", "mlflow.tracking", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            # It logs a stack trace of each error that it raises. We report these in one line.
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            make_database(uri)
            self.client: MlflowClient = MlflowClient(uri)
        self.uri = uri
        self.run_id = ""
        self._uuid = ""

    def open_run(self, record: Record, run_id: str | None = None) -> None:
        """Open the run `run_id`. If the store doesn't have it, open the run with the record's UUID, or create one."""
        self._uuid = record.uuid
        if run_id and self._has(run_id):
            self.run_id = run_id
            return
        if record.experiment is None:
            record.experiment = str(self.client.get_experiment(str(record.experiment_id)).name)
        experiment = self._experiment(record.experiment)
        if not (found := self._twins(experiment)):
            tags = {UUID: record.uuid, **({"fasttrain.continues": run_id} if run_id else {})}
            self.client.create_run(experiment, record.began, tags, record.run_name)
            found = self._twins(experiment)
        if not found:
            raise NotStored("the store has created a run but doesn't have it")
        self.run_id = str(found[0].info.run_id)

    def deliver(self, folder: Path, entries: Sequence[Entry]) -> None:
        """Send `entries`, which are all of one kind, to the run, and check that the store has them.

        Metrics that the store already has are not sent again. `folder`: the run's folder, which has the artifacts.
        """
        kind, value = entries[0].kind, entries[0].value
        if kind == "metrics":
            self._metrics([entry.value for entry in entries])
        elif kind == "params":
            self._params(value)
        elif kind == "tags":
            self._tags({UUID: self._uuid, **value})
        elif kind == "artifact":
            self._artifact(folder / value["name"])
        else:
            self._status(value["status"], value["time"])

    def check(self) -> Run:
        """Return the run, read from the store.

        Raises NotStored if the store no longer has the run, and an error of MLflow or the network if the store doesn't
        answer.
        """
        run = self.client.get_run(self.run_id)
        if run.info.run_id != self.run_id or run.info.lifecycle_stage != "active":
            raise NotStored(f"the store no longer has the run {self.run_id}")
        return run

    def _has(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(run.info.run_id == run_id and run.info.lifecycle_stage == "active")

    def _twins(self, experiment: str) -> list[Run]:
        """Return the runs with the record's UUID, beginning with the one to keep.

        There are several if a response to `create_run` was lost.
        """
        found = self.client.search_runs([experiment], f"tags.`{UUID}` = '{self._uuid}'")
        return sorted(found, key=lambda run: (_is_empty(run), run.info.run_id))

    def _remove_twins(self, experiment: str) -> None:
        for run in self._twins(experiment):
            if run.info.run_id != self.run_id and _is_empty(run):
                self.client.delete_run(run.info.run_id)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location(self.uri)))
            except MlflowException:  # another run may have just created it
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if not found.experiment_id:
            raise NotStored(
                f"MLflow returned no id for the experiment '{name}'; check that the tracking URI names an MLflow server"
            )
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        there = self.check().data.params
        wanted = {_key(name): _cut(value, PARAM_LENGTH) for name, value in params.items()}
        new = [Param(key, text) for key, text in wanted.items() if key not in there]
        # The client splits batches at the store's limits (100 params, 100 tags, 1,000 metrics).
        self.client.log_batch(self.run_id, params=new)
        # A store never changes a param, so a changed setting becomes a tag.
        changed = (name for name in params if there.get(_key(name), wanted[_key(name)]) != wanted[_key(name)])
        self._tags({f"changed.{name}": params[name] for name in changed})
        if missing := wanted.keys() - self.check().data.params.keys():
            raise NotStored(f"the store lacks {counted(len(missing), 'setting')} that it has accepted")

    def _metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        by_name: dict[str, list[Metric]] = defaultdict(list)
        for row in rows:
            for name, value in row["metrics"].items():
                by_name[_key(name)].append(Metric(_key(name), value, row["time"], row["step"]))
        # If the last value is of an earlier step, the store has none of these, and the history needn't be read.
        last = self._last()
        for name, own in by_name.items():
            if name in last and last[name][0] >= min(metric.step for metric in own):
                there = self._points(name)
                by_name[name] = [metric for metric in own if _point(metric) not in there]
        self.client.log_batch(self.run_id, metrics=[metric for own in by_name.values() for metric in own])
        last = self._last()
        for name, own in by_name.items():
            if own and (name not in last or last[name] < max(map(_moment, own))):
                there = self._points(name)
                if any(_point(metric) not in there for metric in own):
                    raise NotStored(f"the store has accepted {name} but doesn't have it")

    def _points(self, name: str) -> set[tuple[int, str]]:
        """Return the values of the metric `name` that the store has, as `_point` gives them."""
        return set(map(_point, self.client.get_metric_history(self.run_id, name)))

    def _last(self) -> dict[str, tuple[int, int]]:
        """Return the step and the time of each metric's last value."""
        return {metric.key: _moment(metric) for metric in self.check().data._metric_objs}

    def _tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        own = [RunTag(_key(name), _cut(value, TAG_LENGTH)) for name, value in tags.items()]
        self.client.log_batch(self.run_id, tags=own)
        if missing := {tag.key for tag in own} - self.check().data.tags.keys():
            raise NotStored(f"the store lacks {counted(len(missing), 'tag')} that it has accepted")

    def _artifact(self, path: Path) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        size = path.stat().st_size
        uri = self.check().info.artifact_uri
        if not uri:
            raise NotStored("MLflow's answer names no place for the run's files")
        # The client caches a run's first repository, even one made from a truncated response.
        repository = get_artifact_repository(uri, tracking_uri=self.client.tracking_uri)
        repository.log_artifact(str(path))
        there = {file.path: file.file_size for file in repository.list_artifacts()}
        if there.get(path.name) != size:
            raise NotStored(f"the store has accepted {path.name} but doesn't have it")

    def _status(self, status: str, time: int | None) -> None:
        if status == RUNNING:
            if self.check().info.status != RUNNING:
                self.client.update_run(self.run_id, status=RUNNING)
            return
        self.client.set_terminated(self.run_id, status, time)
        run = self.check()
        if run.info.status != status:
            raise NotStored(f"the store has ended the run but still shows it as {run.info.status.lower()}")
        # At the end, because a slow server may have created a second run long after the request.
        self._remove_twins(run.info.experiment_id)


def _is_empty(run: Run) -> bool:
    return not run.data.metrics and not run.data.params


def _moment(metric: Metric) -> tuple[int, int]:
    return metric.step, metric.timestamp


def _point(metric: Metric) -> tuple[int, str]:
    """Return what identifies a value of a metric: its step and the value. SQL stores have no infinity."""
    value = metric.value
    limit = sys.float_info.max
    return metric.step, repr(min(max(value, -limit), limit) if value == value else value)


def _key(name: str) -> str:
    """Return `name` as MLflow accepts it: only letters, digits and `_-. :/`, at most `KEY_LENGTH` characters."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_LENGTH]


def _cut(value: str, length: int) -> str:
    """Return `value`, cut to `length` characters with a note of its full length if it is longer."""
    if len(value) <= length:
        return value
    note = f"… ({len(value)} characters)"
    return value[: length - len(note)] + note
