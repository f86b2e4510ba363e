"""Writes and reads checkpoint files, and finds the one to resume from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError
from fasttrain.shards.atomic import atomic_write

SCHEMA = 2
LAST = Path("checkpoints") / "last.pt"
FINISHED = "evaluation.json"
"""Written last of all: a run folder without it is unfinished."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain data) so that `path` is either the old file or the whole new one.

    Raises UserError where the folder can't be written or the disk is full; the old file is still there then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            torch.save({"schema": SCHEMA, **state}, file)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in RuntimeError
        raise UserError(f"{path}: the checkpoint can't be written ({error}); free some space there") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU, read with `weights_only=True`: a file can't run code.

    Raises UserError for a file that is absent, torn, not a checkpoint, or of a newer schema.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give --resume a run folder or its {LAST}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not an intact fasttrain checkpoint ({reason[:120]})") from error
    if not isinstance(state, dict) or "schema" not in state:
        raise UserError(f"{path}: not a fasttrain checkpoint; give --weights a file of bare weights")
    if state["schema"] > SCHEMA:
        raise UserError(f"{path}: schema {state['schema']} is newer than this fasttrain's {SCHEMA}; upgrade fasttrain")
    if state["schema"] == 1:
        state["schedule"] = _schedule_of_schema_1(state)
    return state


def _schedule_of_schema_1(state: dict[str, Any]) -> dict[str, Any]:
    active, epochs = state["schedule"], state["config"]["epochs"]
    total = active.get("t_initial") or active.get("total_steps", epochs + 1) - 1
    return {"epochs": epochs, "steps_per_epoch": total // epochs, "position": state["step"], "active": active}


def find_checkpoint(resume: str, out: Path) -> Path | None:
    """The checkpoint that `resume` means: a file, a run folder's, or for `auto` the newest unfinished run's in `out`.

    None where `auto` finds nothing to resume. Raises UserError where a path holds no checkpoint.
    """
    if resume != "auto":
        path = Path(resume)
        path = path / LAST if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint; give --resume a run folder, its {LAST}, or auto")
        return path
    unfinished = [path for path in out.glob(f"*/{LAST}") if not (path.parents[1] / FINISHED).exists()]
    return max(unfinished, key=lambda path: path.stat().st_mtime_ns, default=None)
