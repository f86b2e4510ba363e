"""The variables by which torchrun, and tools that start several processes, tell each process which one it is."""

from __future__ import annotations

import os
from typing import NamedTuple

from fasttrain.errors import UserError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# What counts a tool's tasks, what numbers them from 0, and the tool.
_TASKS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ("PMI_SIZE", "PMI_RANK", "mpiexec"),
)


class Place(NamedTuple):
    """Which of several processes this one is, among all and on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def place() -> Place | None:
    """Return this process's place among several, None where it is alone. Raises UserError for half a description."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        if not 0 <= rank < size:
            raise ValueError
        if size > 1 and not (os.environ["MASTER_ADDR"] and os.environ["MASTER_PORT"].isdecimal()):
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(f"{described()}: these don't describe a rank; start with torchrun, or unset them") from None
    return Place(rank, size, local_rank, local_size) if size > 1 else None


def is_rank() -> bool:
    """Return whether this process should be one of several, even where its place is only half described."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def described() -> str:
    """Return the variables that describe a rank, as they are set."""
    return " ".join(f"{name}={os.environ[name]}" for name in _NAMES if name in os.environ)


def require_one_process(command: str) -> None:
    """Raise UserError where this process is one of several: `command` says what runs in one."""
    if place() is not None:
        raise UserError(f"{command}: start it without torchrun, or unset what it left ({described()})")


def tasks_apart() -> str | None:
    """Say that a tool has started several tasks that know nothing of each other; None in all but the first one."""
    if place() is not None:
        return None
    for count, number, tool in _TASKS:
        tasks = os.environ.get(count, "")
        if tasks.isdecimal() and int(tasks) > 1 and os.environ.get(number) == "0":
            return (
                f"{count}={tasks}: {tool} has started {tasks} tasks, and each trains a run of its own; for one run "
                f"start one task a machine, with --gpus or torchrun"
            )
    return None
