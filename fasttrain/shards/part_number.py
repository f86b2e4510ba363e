"""Find out which part of a conversion this process writes: from "2/4", or from the scheduler that started it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fasttrain.errors import UserError

AUTO = "auto"
PARTS_VARIABLE = "FASTTRAIN_PARTS"
"""The environment variable with the number of parts, which Kubernetes does not set."""
_MOST = 99_999
_TORCHRUN = ("RANK", "WORLD_SIZE")
_SLURM_TASK = ("SLURM_PROCID", "SLURM_NTASKS")
_SLURM_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP")
_POD = "JOB_COMPLETION_INDEX"


def parse_part(part: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the number of a part, counted from 1, and the number of parts: (2, 4) for "2/4".

    "auto" takes them from the scheduler's variables in `environment`. Raises UserError if they are invalid or missing.
    """
    if part.strip().lower() == AUTO:
        return _from_scheduler(environment)
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", part.strip())
    number, count = (int(each) for each in found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"--part {part}: give the part's number and the number of parts, such as 1/4, or auto")
    return number, count


def _from_scheduler(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the part of this process, by the variables of torchrun, Slurm or Kubernetes."""
    found = {
        name: part
        for name, part in (
            (_TORCHRUN[0], _ranked(environment, *_TORCHRUN)),
            (_SLURM_ARRAY[0], _array(environment)),
            (_POD, _pod(environment)),
            (_SLURM_TASK[0], _ranked(environment, *_SLURM_TASK)),
        )
        if part is not None
    }
    if not found:
        raise UserError(
            f"--part {AUTO}: none of these variables is set: {' and '.join(_SLURM_ARRAY[::2])}, or "
            f"{' and '.join(_SLURM_TASK)} (Slurm), {_POD} and {PARTS_VARIABLE} (Kubernetes), {' and '.join(_TORCHRUN)} "
            "(torchrun); start the command with one of these tools, or give each command its part, such as --part 1/4"
        )
    if _TORCHRUN[0] in found:
        found.pop(_SLURM_TASK[0], None)  # it counts the torchruns that srun started
    several = {name: part for name, part in found.items() if part[1] > 1} or found
    if len(set(several.values())) > 1:
        each = ", ".join(f"{number}/{count} by {name}" for name, (number, count) in several.items())
        raise UserError(f"--part {AUTO}: this process is part {each}; choose one: give --part 1/4")
    return next(iter(several.values()))


def _ranked(environment: Mapping[str, str], rank: str, size: str) -> tuple[int, int] | None:
    """Return the part of a process whose launcher counts ranks from 0, or None if `rank` is not set."""
    if rank not in environment:
        return None
    return _part(rank, _number(environment, rank), _number(environment, size, f"{rank} is set, but not {size}: set it"))


def _array(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the part of a task of a Slurm array, or None. An array may start at any number and count in steps."""
    task, first, count, step = _SLURM_ARRAY
    if task not in environment:
        return None
    parts = _number(environment, count, f"{task} is set, but not {count}: set it")
    start, stride = (_number({name: "0", **environment}, name) for name in (first, step))
    place, beyond = divmod(_number(environment, task) - start, max(stride, 1))
    if beyond or not 0 <= place < parts:
        raise UserError(
            f"--part {AUTO}: {task}={environment[task]} is not one of {parts} evenly spaced tasks; give sbatch "
            f"--array=1-{parts}"
        )
    return _part(task, place, parts)


def _pod(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the part of a pod of a Kubernetes indexed job, or None."""
    if _POD not in environment:
        return None
    count = _number(
        environment,
        PARTS_VARIABLE,
        f"Kubernetes sets {_POD} but not the number of pods; set {PARTS_VARIABLE} to the job's `completions`",
    )
    return _part(_POD, _number(environment, _POD), count)


def _part(name: str, place: int, count: int) -> tuple[int, int]:
    """Return the part number, counted from 1, for `place`, counted from 0, and the number of parts.

    Raises UserError if `place` is out of range.
    """
    if not 0 <= place < count <= _MOST:
        raise UserError(f"--part {AUTO}: {name}={place} is not one of {count} parts, counted from 0; give --part 1/4")
    return place + 1, count


def _number(environment: Mapping[str, str], name: str, missing: str = "") -> int:
    """Return the integer in an environment variable. Raises UserError, with the text `missing`, if it is not set."""
    given = environment.get(name, "").strip()
    if not given and missing:
        raise UserError(f"--part {AUTO}: {missing}; or give each command its part, such as --part 1/4")
    if not re.fullmatch(r"\d{1,9}", given):
        raise UserError(
            f"--part {AUTO}: {name}={given!r} is not a number; give each command its part, such as --part 1/4"
        )
    return int(given)
