"""`train --gpus`: several ranks from one command train as torchrun's do, and stop, fail and resume together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from fasttrain import lr_find, profile, tune
from fasttrain.commands.train import with_gpus_of
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.ranks import Ranks
from fasttrain.training.resume import RunStart
from tests.support.patience import PATIENCE, wait_until
from tests.support.runs import SMALL, last_state, paused, program
from tests.training.test_distributed import assert_same_run, finish, folder_in, start, start_ranks, train_line

RANKS = {"gpus": 2, "figures": False}


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(each) for each in children]


def gone(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture(scope="module")
def torchruns(shard_folder, tmp_path_factory) -> Path:
    """The run of two ranks as torchrun starts them."""
    out = tmp_path_factory.mktemp("torchrun")
    for process in start_ranks(train_line(shard_folder, out, figures=False)):
        finish(process)
    return folder_in(out)


@pytest.mark.full
def test_ctrl_c_stops_all_and_resuming_trains_as_torchruns_ranks_do(torchruns, shard_folder, tmp_path):
    runs = tmp_path / "runs"
    process = start(train_line(shard_folder, runs, pause_at=3, **RANKS))
    with paused(process, tmp_path):
        ranks = ranks_of(process)
        process.send_signal(signal.SIGINT)
    said = finish(process, 130)
    assert said.count("resume with: fasttrain train --resume") == 1 and "Traceback" not in said
    assert "2 x 2 = 4" in said and said.count("ranks: 2 (gloo)") == 1
    assert len(ranks) == 2 and all(map(gone, ranks))
    assert 3 <= last_state(folder_in(runs))["step"] < last_state(torchruns)["step"]
    resumed = finish(start([*program(figures=False), "train", "--resume", str(folder_in(runs))]))
    assert "2 x 2 = 4" in resumed, "on as many ranks as it began with"
    assert_same_run(folder_in(runs), torchruns, tolerance=0)
    begun, again = json.loads((folder_in(runs) / "provenance.json").read_text())["starts"]
    assert f"train --resume {folder_in(runs)}" in again["command"] and again["step"] >= 3 > begun["step"] == 0


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_with_one_line(shard_folder, tmp_path):
    process = start(train_line(shard_folder, tmp_path / "runs", pause_at=1, **RANKS))
    with paused(process, tmp_path):
        ranks = ranks_of(process)
        os.kill(ranks[1], signal.SIGKILL)
    said = finish(process, 1)
    assert said.splitlines()[-1] == (
        "fasttrain: rank 1 was ended by SIGKILL, perhaps by the kernel because memory ran out; "
        "--resume auto continues from the last checkpoint"
    )
    assert said.count("fasttrain: ") == 1 and "Traceback" not in said and all(map(gone, ranks))


@pytest.mark.full
def test_ranks_whose_starter_was_killed_stop_with_a_checkpoint(shard_folder, tmp_path):
    runs = tmp_path / "runs"
    process = start(train_line(shard_folder, runs, pause_at=1, **RANKS))
    with paused(process, tmp_path):
        ranks = ranks_of(process)
        process.kill()
        process.wait(PATIENCE)
    wait_until(lambda: all(map(gone, ranks)))
    assert last_state(folder_in(runs))["step"] in (1, 2)


@pytest.mark.slow
def test_what_the_user_can_fix_is_said_once(tmp_path):
    (tmp_path / "empty").mkdir()
    said = finish(start(train_line(tmp_path / "empty", tmp_path / "runs", **RANKS)), 2)
    assert said.count("fasttrain: ") == 1 and len(said.splitlines()) == 2, "below the line of the start"


CELL = """
import torch
from fasttrain import Callback, train

class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 6)
    def forward(self, pictures):
        return self.layer(pictures.mean((2, 3)))

class Counts(Callback):
    steps = 0
    def on_step_end(self, run):
        self.steps += 1
        print("rank", run.rank, "step", run.step)

class Keeps(Callback):
    def on_train_start(self, run):
        self.run = run

model, epochs, counts = Head(), [], Counts()
result = train(data={data!r}, out={out!r}, model=model, callbacks=[counts, Keeps()],
               after_epoch=lambda record: epochs.append(record["epoch"]), gpus=2, **{settings})
from safetensors.torch import load_file
best = load_file(result.folder / "model.safetensors")
same = all(torch.equal(model.state_dict()[name], best[name]) for name in best)
print(epochs, counts.steps, len(result.history), same)
"""


@pytest.mark.full
def test_objects_of_a_notebook_train_on_several_ranks(shard_folder, tmp_path):
    given = {**SMALL, "track": False, "limit_batches": 2, "epochs": 2, "batch_size": 4}
    del given["model"], given["pretrained"]
    cell = CELL.format(data=str(shard_folder), out=str(tmp_path / "runs"), settings=given)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0]["outputs"]
    said = "".join(each.get("text", "") + each.get("data", {}).get("text/plain", "") for each in outputs)
    assert (
        "[1, 2] 4 2 True" in said
        and "Keeps: its state on rank 0 can't be pickled" in said
        and "ranks: 2 (gloo), 2 x 4 = 8" in said
    )
    assert "rank 0 step 4" in said and "rank 1 step 4" in said


@pytest.mark.slow
@pytest.mark.full
def test_each_fold_trains_on_several_ranks(shard_folder, tmp_path):
    line = train_line(shard_folder, tmp_path / "runs", folds=2, epochs=1, limit_batches=2, **RANKS)
    said = finish(start(line))
    assert said.count("ranks: 2 (gloo)") == 2 and "out-of-fold top1: " in said


@pytest.mark.slow
@pytest.mark.full
def test_each_trial_trains_on_several_ranks(shard_folder, tmp_path):
    pytest.importorskip("optuna")
    given = {**SMALL, "data": shard_folder, "track": False, "limit_batches": 2, "epochs": 2, "gpus": 2}
    found = tune(trials=2, out=tmp_path / "tune", learning_rate_range=(1e-4, 1e-1), batch_sizes=(4,), **given)
    assert [trial.epochs for trial in found.trials] == [2, 2]
    assert "ranks: 2 (gloo), 2 x 4 = 8" in (found.trials[0].folder / "output.log").read_text()


def test_other_commands_refuse_several_ranks():
    for command in (profile, lr_find):
        with pytest.raises(UserError, match=r"gpus = 2: .* one process; give --gpus 1"):
            command(gpus=2, device="cpu")


def test_gpus_that_torchrun_has_not_started_are_refused_and_a_resumed_runs_are_replaced():
    torchruns = Ranks(rank=0, size=8, local_rank=0, local_size=4)
    asked = RunStart(resolve({"gpus": 2}))
    with pytest.raises(UserError, match="gpus = 2: torchrun has started 4 ranks on this machine; leave gpus out"):
        with_gpus_of(asked, torchruns)
    assert with_gpus_of(replace(asked, before=asked.config), torchruns).config.gpus is None
    own = Ranks(rank=1, size=2, local_rank=1, local_size=2)
    assert with_gpus_of(asked, own) is asked
