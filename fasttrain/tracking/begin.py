"""Begin or continue the record of a run, with or without MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from fasttrain.tracking.record import RECORD, RUNNING, Record

_EXPERIMENT = "fasttrain"  # the default


def begin_record(
    experiment: str | None,
    run_name: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None,
    *,
    folder: Path,
    uuid: str | None,
    report: Callable[[str], None],
) -> tuple[Record, bool]:
    """Return the record of the run in `folder`, and whether that record is new.

    The record is the one in `folder`, with `params` and `tags` added. If there is none, or if it can't be read, it is a
    new one. `report` receives a line if the record can't be read. The caller must save the record. The arguments are
    those of `Tracker.start`.
    """
    try:
        found = Record.load(folder / RECORD)
    except (OSError, ValueError) as error:
        report(f"MLflow: {folder / RECORD} can't be read ({error}); a new file replaces it")
        found = None
    if found is None:
        record = _new_record(folder, experiment, run_name, uuid)
    else:
        record = found
        record.keep_final_metrics()
    record.params = {name: str(value) for name, value in params.items()}
    record.tags |= {name: str(value) for name, value in (tags or {}).items()}
    if run_name:
        record.tags["mlflow.runName"] = run_name
    record.status, record.ended, record.artifacts = RUNNING, None, []
    return record, found is None


def _new_record(folder: Path, experiment: str | None, run_name: str | None, uuid: str | None) -> Record:
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    number = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
    return Record(
        folder / RECORD,
        uuid or uuid4().hex,
        experiment=None if number else name or _EXPERIMENT,
        experiment_id=number,
        run_name=run_name or os.environ.get("MLFLOW_RUN_NAME") or folder.resolve().name,
        params={},
        tags={},
        ready=not (folder / "history.json").exists(),
    )
