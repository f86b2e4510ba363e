"""Read the environment variables in which torchrun, srun and mpirun pass each process its rank."""

from __future__ import annotations

import os
from typing import NamedTuple

from fasttrain.errors import UserError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# The variable with a tool's number of tasks, the variable with this task's number from 0, and the tool.
_TASKS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ("PMI_SIZE", "PMI_RANK", "mpiexec"),
)


class Place(NamedTuple):
    """The numbers of this process among the processes that train together.

    `rank` counts from 0 among all `size` processes, and `local_rank` among the `local_size` processes of this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def place() -> Place | None:
    """Return the place of this process among the ranks, or None if it runs alone.

    The place is read from RANK, WORLD_SIZE and torchrun's other environment variables. Raises UserError if some of them
    are missing or invalid.
    """
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
        raise UserError(
            f"{rank_variables()}: these variables don't describe a rank; start with torchrun, or unset them"
        ) from None
    return Place(rank, size, local_rank, local_size) if size > 1 else None


def is_rank() -> bool:
    """Return whether the environment says that this process is one of several, even if other variables are missing.

    It says so if RANK is set, and WORLD_SIZE is set to another value than 1.
    """
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def rank_variables() -> str:
    """Return the environment variables that describe a rank, as "RANK=0 WORLD_SIZE=2", without those not set."""
    return " ".join(f"{name}={os.environ[name]}" for name in _NAMES if name in os.environ)


def require_one_process(reason: str) -> None:
    """Raise UserError if this process is one of several.

    The message begins with `reason`, such as "lr-find runs in one process".
    """
    if place() is not None:
        raise UserError(f"{reason}: start the command without torchrun, or unset the variables {rank_variables()}")


def independent_tasks_warning() -> str | None:
    """Return a warning if srun or mpirun has started several tasks that train independently of each other.

    Return None in all tasks but the first, so that the warning is printed once. Also return None if torchrun's
    variables connect the tasks, or if there is only one.
    """
    if place() is not None:
        return None
    for count, number, tool in _TASKS:
        tasks = os.environ.get(count, "")
        if tasks.isdecimal() and int(tasks) > 1 and os.environ.get(number) == "0":
            return (
                f"{count}={tasks}: {tool} has started {tasks} tasks, and each trains a separate run; for one run "
                f"start one task per machine, with --gpus or torchrun"
            )
    return None
