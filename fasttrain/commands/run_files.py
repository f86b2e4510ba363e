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


def find_best(state: TrainingState, folder: RunFolder, went_back: bool) -> bool:
    """Makes sure that `state` has the weights of its best epoch; False where they are lost.

    Checkpoints hold them. Those of an older fasttrain don't: there they are taken from the folder, unless the run
    `went_back` to an earlier step than the one that wrote it.
    """
    if state.best is None and state.early_stopping.best_epoch >= 0:
        if state.at_end_of_epoch and state.early_stopping.best_epoch == state.epoch - 1:
            state.keep_best()
        elif not went_back:
            state.best = folder.read_weights()
    return state.best is not None or state.early_stopping.best_epoch < 0


def begin_best_anew(state: TrainingState, main: bool) -> None:
    """Has the epoch that ends with this state be the best so far; in mid-epoch none is."""
    state.early_stopping.forget()
    if state.at_end_of_epoch and state.history:
        state.early_stopping.update(state.epoch - 1, state.history[-1][MONITORS[state.early_stopping.monitor].field])
        if main:
            state.keep_best()


def restore_files(state: TrainingState, folder: RunFolder) -> None:
    """Has the folder's weights and history be those of `state`. OSError where they can't be written."""
    if state.best is None:
        folder.model.unlink(missing_ok=True)
    elif not _same(folder.read_weights(), state.best):
        folder.write_weights(state.best)
    if state.history:
        folder.write_history(state.history)
    else:
        folder.history.unlink(missing_ok=True)


def tracked_before(start: RunStart) -> dict[str, Any]:
    """Return the id and the UUID of the MLflow run that the run of `start` is tracked in; None where a new one begins.

    A new one begins where the run goes back to an earlier checkpoint, since what MLflow has can't be taken back, and
    where the experiment is another. What is abandoned is set aside. `experiment` is its experiment, which the new one
    joins.
    """
    checkpoint, before = start.checkpoint or {}, start.before
    # `journal` is the record's UUID: checkpoints of all versions name it so.
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
    if None not in (known["journal"], found) and found != known["journal"]:  # killed before it was saved
        known["experiment"] = set_aside(start.folder, {"abandoned": "the run was killed before its first checkpoint"})
    return known


def start_tracker(
    parts: RunParts, folder: Path, tracked: Mapping[str, Any], tags: Mapping[str, str], report: Callable[[str], None]
) -> NullTracker:
    """Start the trackers of the run in `folder`, in the MLflow run that `tracked_before` found, if there is one."""
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


def _same(ours: dict[str, torch.Tensor] | None, theirs: dict[str, torch.Tensor]) -> bool:
    return (
        ours is not None
        and ours.keys() == theirs.keys()
        and all(each.dtype == theirs[name].dtype and torch.equal(each, theirs[name]) for name, each in ours.items())
    )
