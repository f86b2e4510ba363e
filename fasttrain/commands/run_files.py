"""Make the files in a run's folder match the checkpoint that the run resumes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.config.monitor import MONITORS
from fasttrain.config.resuming import lasting
from fasttrain.tracking.mirrored import start_trackers
from fasttrain.tracking.record import record_uuid, set_aside
from fasttrain.tracking.tracker import NullTracker
from fasttrain.training.parts import RunParts
from fasttrain.training.resume import RunStart
from fasttrain.training.state import TrainingState


def restore_best(state: TrainingState, folder: RunFolder, went_back: bool) -> bool:
    """Restore the best epoch's weights into `state`. Return whether they were found.

    `state` holds them if it was loaded from a checkpoint of this version. For checkpoints of older versions they are
    read from `folder`, unless `went_back`: the run resumes from an earlier step, and the folder's files are of a later
    one.
    """
    if state.best is None and state.early_stopping.best_epoch >= 0:
        if state.at_end_of_epoch and state.early_stopping.best_epoch == state.epoch - 1:
            state.keep_best()
        elif not went_back:
            state.best = folder.read_weights()
    return state.best is not None or state.early_stopping.best_epoch < 0


def reset_best(state: TrainingState, main: bool) -> None:
    """Forget the best epoch. If `state` is at the end of an epoch, that epoch becomes the best so far.

    `main`: whether this process is rank 0, the only one that keeps a copy of the best weights.
    """
    state.early_stopping.forget()
    if state.at_end_of_epoch and state.history:
        state.early_stopping.update(state.epoch - 1, state.history[-1][MONITORS[state.early_stopping.monitor].field])
        if main:
            state.keep_best()


def restore_files(state: TrainingState, folder: RunFolder) -> None:
    """Write the best weights and the history of `state` to `folder`, or delete these files if `state` has none.

    Raises OSError if a file can't be written.
    """
    if state.best is None:
        folder.model.unlink(missing_ok=True)
    elif not _same(folder.read_weights(), state.best):
        folder.write_weights(state.best)
    if state.history:
        folder.write_history(state.history)
    else:
        folder.history.unlink(missing_ok=True)


def previous_tracking(start: RunStart) -> dict[str, Any]:
    """Return how a resumed run continues its tracking in MLflow, for `start_tracker`.

    "mlflow_run_id": the id of its MLflow run. "journal": the UUID of the record in its folder of what was sent. Both
    are None for a new run. They are also None if a resumed run needs a new MLflow run: if the experiment has changed,
    or if the run goes back to an earlier checkpoint, because MLflow can't remove later metrics. The old record is then
    set aside. "experiment", if present: the experiment in which to create the new MLflow run.
    """
    checkpoint, before = start.checkpoint or {}, start.before
    # Checkpoints of all versions call the UUID of the record "journal".
    known = {"mlflow_run_id": checkpoint.get("mlflow_run_id"), "journal": checkpoint.get("journal")}
    if start.folder is None or before is None:
        return known
    step, epoch = checkpoint["step"], checkpoint["epoch"]
    if before.experiment != start.config.experiment:
        set_aside(start.folder, {"continued_in": start.config.experiment})
        return dict.fromkeys(known)
    if start.went_back:
        experiment = set_aside(start.folder, {"abandoned": f"the run went back to step {step}, in epoch {epoch + 1}"})
        return {**dict.fromkeys(known), "experiment": experiment}
    found = record_uuid(start.folder)
    if None not in (known["journal"], found) and found != known["journal"]:  # its run was killed before it was saved
        known["experiment"] = set_aside(start.folder, {"abandoned": "the run was killed before its first checkpoint"})
    return known


def start_tracker(
    parts: RunParts, folder: Path, tracked: Mapping[str, Any], tags: Mapping[str, str], report: Callable[[str], None]
) -> NullTracker:
    """Start the trackers of the run in `folder`, and return one tracker that sends to all of them.

    `tracked`: the result of `previous_tracking`. `tags`: tags for the MLflow run. `report`: called with warnings. On
    ranks other than 0, return a tracker that does nothing.
    """
    config, ranks = parts.config, parts.ranks
    if not ranks.main:
        return NullTracker()
    return start_trackers(
        config.track,
        experiment=tracked.get("experiment") or config.given_experiment,
        run_name=config.run_name,
        params={
            **lasting(config.plain()),
            "loader": parts.loader_name,
            "classes": len(parts.shards.classes),
            "ranks": ranks.size,
        },
        tags={**tags, "run_folder": str(folder.resolve()), "shards": parts.shards.fingerprint},
        run_id=tracked["mlflow_run_id"],
        uuid=tracked["journal"],
        folder=folder,
        report=report,
        delayed=True,
    )


def _same(first: dict[str, torch.Tensor] | None, second: dict[str, torch.Tensor]) -> bool:
    return (
        first is not None
        and first.keys() == second.keys()
        and all(each.dtype == second[name].dtype and torch.equal(each, second[name]) for name, each in first.items())
    )
