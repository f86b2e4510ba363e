"""Variables that torchrun and other tools set, and ones that they left behind."""

from __future__ import annotations

import os
import subprocess

import pytest

from fasttrain.environment import Place, independent_tasks_warning, is_rank, place, require_one_process
from fasttrain.errors import UserError
from tests.support import warm

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in (*TORCHRUN, "MASTER_PORT", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_rank_knows_its_place(monkeypatch):
    assert place() is None and not is_rank()
    given(monkeypatch, **TORCHRUN, MASTER_PORT="29500")
    assert place() == Place(3, 4, 1, 2) and is_rank()
    with pytest.raises(UserError, match=r"tune starts its runs itself: .*without torchrun.*RANK=3 WORLD_SIZE=4"):
        require_one_process("tune starts its runs itself")


@pytest.mark.parametrize(
    "left", [{"RANK": "3"}, {"WORLD_SIZE": "4"}, {"LOCAL_RANK": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}]
)
def test_what_does_not_make_a_rank_is_one_process(monkeypatch, left):
    given(monkeypatch, **left)
    assert place() is None and not is_rank()
    require_one_process("tune starts its runs itself")


@pytest.mark.parametrize("wrong", [{"MASTER_PORT": ""}, {"RANK": "4"}, {"WORLD_SIZE": "four"}, {}])
def test_half_a_description_is_refused_with_its_variables(monkeypatch, wrong):
    given(monkeypatch, **TORCHRUN, **({} if not wrong else {"MASTER_PORT": "29500"}))
    given(monkeypatch, **wrong)
    with pytest.raises(
        UserError, match=r"LOCAL_RANK=1 MASTER_ADDR=node0.*: these variables don't describe a rank; .* unset them"
    ):
        place()


@pytest.mark.parametrize(
    ("count", "number", "tool"),
    [
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
        ("PMI_SIZE", "PMI_RANK", "mpiexec"),
    ],
)
def test_tasks_that_know_nothing_of_each_other_are_told_so_once(monkeypatch, count, number, tool):
    given(monkeypatch, **{count: "4", number: "0"})
    assert f"{count}=4: {tool} has started 4 tasks, and each trains a separate run" in str(independent_tasks_warning())
    given(monkeypatch, **{number: "1"})
    assert independent_tasks_warning() is None
    given(monkeypatch, **{count: "1", number: "0"})
    assert independent_tasks_warning() is None
    given(monkeypatch, **{count: "4"}, **TORCHRUN, MASTER_PORT="29500")
    assert independent_tasks_warning() is None


WAITING = """
from fasttrain import ranks
ranks._SILENT_S = 0.1
with ranks.Ranks.of_environment():
    pass
"""


@pytest.mark.slow
def test_what_waits_for_ranks_that_nobody_starts_says_so(monkeypatch):
    left = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    process = warm.Popen(["-c", WAITING], env={**os.environ, **left}, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr.readline() == (
            "fasttrain: rank 0 of 2 is waiting for the others at 127.0.0.1:0; if you did not start them, unset the "
            "variables of another tool: RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=0\n"
        )
    finally:
        process.kill()
        process.communicate()
