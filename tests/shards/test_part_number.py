"""Which part `--part auto` takes, from the variables that schedulers set."""

from __future__ import annotations

import re

import pytest

from fasttrain.errors import UserError
from fasttrain.shards.part_number import parse_part


def array(task, first, count, step):
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP")
    return {name: str(value) for name, value in zip(names, (task, first, count, step), strict=True)}


TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
ONE_TASK = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
POD = {"JOB_COMPLETION_INDEX": "0", "FASTTRAIN_PARTS": "16"}


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (array(1, 1, 4, 1), (1, 4)),
        (array(0, 0, 4, 1), (1, 4)),
        (array(17, 11, 3, 3), (3, 3)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        ({**array(2, 1, 4, 1), **ONE_TASK}, (2, 4)),
        (SRUN, (4, 4)),
        (ONE_TASK, (1, 1)),
        (POD, (1, 16)),
        (TORCHRUN, (6, 8)),
        ({**TORCHRUN, **SRUN}, (6, 8)),
        ({**TORCHRUN, "JOB_COMPLETION_INDEX": "5", "FASTTRAIN_PARTS": "8"}, (6, 8)),
    ],
)
def test_a_scheduler_says_which_part(environment, part):
    assert parse_part("auto", environment) == part
    assert parse_part("2/3", environment) == (2, 3), "a given part wins"


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, r"SLURM_ARRAY_TASK_ID .*SLURM_PROCID .*JOB_COMPLETION_INDEX and FASTTRAIN_PARTS .*RANK and WORLD_SIZE"),
        ({"JOB_COMPLETION_INDEX": "3"}, "Kubernetes sets JOB_COMPLETION_INDEX but not the number .*FASTTRAIN_PARTS"),
        ({"RANK": "3"}, "RANK is set, but not WORLD_SIZE"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_ID is set, but not SLURM_ARRAY_TASK_COUNT"),
        (array(7, 1, 3, 1), r"SLURM_ARRAY_TASK_ID=7 is not one of 3 evenly spaced tasks.*sbatch --array=1-3"),
        (array(4, 1, 3, 2), "SLURM_ARRAY_TASK_ID=4 is not one of 3 evenly spaced tasks"),
        ({**POD, "JOB_COMPLETION_INDEX": "16"}, "JOB_COMPLETION_INDEX=16 is not one of 16 parts"),
        ({**POD, "FASTTRAIN_PARTS": "many"}, "FASTTRAIN_PARTS='many' is not a number"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK='-1' is not a number"),
        ({**POD, **TORCHRUN}, "part 6/8 by RANK, 1/16 by JOB_COMPLETION_INDEX; choose one"),
        ({**array(1, 1, 4, 1), **SRUN}, "part 1/4 by SLURM_ARRAY_TASK_ID, 4/4 by SLURM_PROCID"),
    ],
)
def test_what_it_cannot_tell_is_one_line(environment, why):
    with pytest.raises(UserError, match=f"^--part auto: .*{why}") as error:
        parse_part("auto", environment)
    assert re.search("--part 1/4|--array", str(error.value)) and "\n" not in str(error.value)
