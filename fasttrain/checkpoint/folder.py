"""The checkpoints of a run: their names, the newest intact one, and the removal of old ones."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.errors import TooNew, UserError
from fasttrain.text import counted

CHECKPOINTS = "checkpoints"
FINISHED = "evaluation.json"
"""This file is written last: a run folder without it is unfinished."""

_BEFORE_SCHEMA_3 = "last.pt"

log = logging.getLogger("fasttrain")


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found: its path, its state, and in `torn` a line for each newer one that is damaged."""

    path: Path
    state: dict[str, Any]
    torn: tuple[str, ...] = ()


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of the checkpoint that the run in the folder `run` saves after `step` optimizer steps."""
    return run / CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints of the run in the folder `run`, the newest first, intact or not."""
    numbered = [(_step(path), path) for path in (run / CHECKPOINTS).glob("step-*.safetensors")]
    newest_first = sorted(((step, path) for step, path in numbered if step is not None), reverse=True)
    old = run / CHECKPOINTS / _BEFORE_SCHEMA_3
    return [path for _, path in newest_first] + ([old] if old.exists() else [])


def newest_checkpoint(run: Path) -> Found:
    """Return the newest intact checkpoint of the run in the folder `run`.

    Raises UserError if there is none, or if it was written by a newer version.
    """
    paths = checkpoints_of(run)
    if not paths:
        raise UserError(f"{run}: no checkpoint in it; give --resume a run folder, one of its checkpoints, or auto")
    torn: list[UserError] = []
    for path in paths:
        try:
            state = load_checkpoint(path)
        except TooNew:
            raise
        except UserError as error:
            torn.append(error)
            continue
        return Found(path, state, tuple(f"{each}; resuming from {path.name}" for each in torn))
    if len(torn) == 1:
        raise torn[0]
    raise UserError(f"{run / CHECKPOINTS}: none of its {counted(len(torn), 'checkpoint')} is intact: {torn[0]}")


def find_checkpoint(resume: str, out: Path) -> Found | None:
    """Return the checkpoint from which to resume.

    `resume`: a checkpoint, a run folder (for its newest intact checkpoint), or "auto" for the folder of the newest
    unfinished run in `out`. Return None if "auto" finds no unfinished run. Raises UserError if there is no intact
    checkpoint.
    """
    if resume == "auto":
        run = newest_unfinished(out)
        return None if run is None else newest_checkpoint(run)
    path = Path(resume)
    if path.is_dir():
        return newest_checkpoint(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give --resume a run folder, one of its checkpoints, or auto")
    try:
        return Found(path, load_checkpoint(path))
    except UserError as error:
        if (beside := _intact_beside(path)) is None:
            raise
        raise UserError(f"{error}; give --resume {beside}, which is intact") from error


def newest_unfinished(out: Path) -> Path | None:
    """Return the folder of the unfinished run in `out` that saved a checkpoint last, or None if there is none."""
    saved: dict[Path, int] = {}
    for path in (*out.glob(f"*/{CHECKPOINTS}/step-*.safetensors"), *out.glob(f"*/{CHECKPOINTS}/{_BEFORE_SCHEMA_3}")):
        run = path.parents[1]
        if not (run / FINISHED).exists():
            saved[run] = max(saved.get(run, 0), path.stat().st_mtime_ns)
    return max(saved, key=lambda run: saved[run], default=None)


def remove_old(newest: Path, keep: int) -> None:
    """Delete all checkpoints of a run except `newest`, which is safe on the disk, and the `keep` - 1 before it.

    Checkpoints of later steps than `newest` are deleted, because they are damaged or the run went back to an earlier
    step.
    """
    paths = checkpoints_of(newest.parents[1])
    if newest not in paths:
        return
    at = paths.index(newest)
    leftovers = newest.parent.glob(".step-*.tmp")  # temporary files of killed runs
    for path in (*leftovers, *paths[:at], *paths[at + keep :]):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("can't remove %s: %s", path, error)


def _step(path: Path) -> int | None:
    found = re.fullmatch(r"step-(\d{8,})\.safetensors", path.name)
    return int(found[1]) if found else None


def _intact_beside(torn: Path) -> Path | None:
    if torn.parent.name != CHECKPOINTS:
        return None
    for path in checkpoints_of(torn.parents[1]):
        if path != torn:
            try:
                load_checkpoint(path)
            except UserError:
                continue
            return path
    return None
