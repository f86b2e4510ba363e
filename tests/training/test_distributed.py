"""Two ranks on gloo, as torchrun starts them: they train as one process does, and stop, fail and restart together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import loader_class
from fasttrain.ranks import Ranks
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from tests.support import warm
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, arguments, last_state, paused, program, start_run

# A model without BatchNorm, whose statistics would be those of a rank's part; SGD, as Adam magnifies the last bits.
SETTINGS = {
    "model": "test_convnext",
    "image_size": 32,
    "batch_size": 2,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "clip_grad": 1.0,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "deterministic": True,
    "save_every": 1,
    "track": False,
}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """One process: a new Python for torchrun and so for its ranks, a forked one for any other program."""
    options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options["env"] = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if command[:2] == TORCHRUN[:2]:
        return subprocess.Popen([sys.executable, *command], **options)
    return warm.Popen(command, **options)


def train_line(
    shards: Path, runs: Path, pause_at: int | None = None, figures: bool = True, **settings: object
) -> list[str]:
    given = arguments(data=shards, out=runs, **{**SMALL, **SETTINGS, **settings})
    return [*program(pause_at, runs.parent, figures), "train", *given]


def start_ranks(line: list[str]) -> list[subprocess.Popen[str]]:
    """Two ranks without torchrun, whose own exit code and summary hide theirs."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [start(line, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    return output


def folder_in(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def assert_same_run(ours: Path, theirs: Path, tolerance: float) -> None:
    mine, other = last_state(ours), last_state(theirs)
    assert (mine["step"], mine["epoch"], mine["loader"]) == (other["step"], other["epoch"], other["loader"])
    for part in ("model", "ema"):
        for name, tensor in other[part].items():
            torch.testing.assert_close(mine[part][name], tensor, rtol=0, atol=tolerance, msg=f"{part}.{name}")
    for a, b in zip(mine["history"], other["history"], strict=True):
        assert a["train_top1"] == pytest.approx(b["train_top1"])
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-4)


@pytest.fixture(scope="module")
def shard_folder(photographs, tmp_path_factory):
    """One photograph less than in the other tests: of the last batch of 4, rank 1's part is empty."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(photographs, folder / "photographs")
    next((folder / "photographs").glob("*/*.jpg")).unlink()
    convert(str(folder / "photographs"), folder / "shards", workers=1, progress=False, shard_size=40)
    assert len(ShardSet.open(folder / "shards").ids("train")) % 4 == 1
    return folder / "shards"


@pytest.fixture(scope="module")
def runs(shard_folder, tmp_path_factory):
    """One process with the batch of both, and two ranks under torchrun: the folder of each, and what it printed."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    processes = {
        alone: start(train_line(shard_folder, alone, batch_size=4)),
        together: start([*TORCHRUN, str(free_port()), *train_line(shard_folder, together)]),
    }
    said = [finish(process) for process in processes.values()]
    return [(folder_in(out), output) for out, output in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def alone(runs):
    return runs[0][0]


@pytest.fixture(scope="module")
def together(runs):
    return runs[1]


@pytest.mark.slow
def test_the_head_first_on_two_ranks_as_on_one(shard_folder, tmp_path):
    """On pictures, as features are for one process."""
    settings = {"head_epochs": 1, "color_jitter": 0.1, "figures": False, "limit_batches": 3, "epochs": 2}
    finish(start(train_line(shard_folder, tmp_path / "one", batch_size=4, **settings)))
    said = [finish(each) for each in start_ranks(train_line(shard_folder, tmp_path / "two", **settings))]
    assert "1 epoch of the classifier alone, on photographs" in " ".join(said[0].split())
    ours, theirs = folder_in(tmp_path / "two"), folder_in(tmp_path / "one")
    assert_same_run(ours, theirs, 1e-4)
    assert [each["phase"] for each in last_state(ours)["history"]] == ["head", "full"]


@pytest.mark.slow
def test_two_ranks_train_as_one_does_with_the_batch_of_both(alone, together, shard_folder):
    folder, output = together
    assert_same_run(folder, alone, tolerance=1e-5)
    assert "2 x 2 = 4" in output and output.count("epoch 1/2") == 1, "rank 0 alone prints"
    evaluation, expected = (json.loads((each / "evaluation.json").read_text()) for each in (folder, alone))
    assert evaluation["confusion_matrix"] == expected["confusion_matrix"]
    assert evaluation["samples"] == len(ShardSet.open(shard_folder).ids("val"))
    mistakes = [(each / "report.html").read_text().count("<figure title=") for each in (folder, alone)]
    assert mistakes[0] == mistakes[1] > 0, "rank 0 reports what all of them got wrong"


WORK = """
import sys, torch
from pathlib import Path
from fasttrain.checkpoint.trained import load_trained
from fasttrain.evaluation.evaluate import evaluate_model
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import loader_class
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.shards.reader import ShardSet
from fasttrain.ranks import Ranks
shards, run, out = ShardSet.open(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
def work(ranks, loader):
    def make(split, crop, batch):
        settings = LoaderSettings(batch, 32, crop, rank=ranks.rank, world_size=ranks.size)
        return loader_class(loader)(shards, shards.ids(split), settings)
    trained = make("train", Crop(), 8 // ranks.size)
    parts = [ids.tolist() for _, _, ids in trained]
    model, spec = load_trained(run)
    result = evaluate_model(
        model, make("val", None, 6 // ranks.size), num_classes=6, device="cpu", ranks=ranks,
        preprocess=NormalizePixels(spec.mean, spec.std, channels_last=True), criterion=torch.nn.CrossEntropyLoss(),
    )
    return {"parts": ranks.gather(parts), "evaluation": result[0].to_dict(), "ids": result[1].ids.tolist(),
            "top": result[1].top.tolist(), "delivered": trained.state_dict()}
with Ranks.of_environment() as ranks:
    results = [work(ranks, loader) for loader in sys.argv[4:]]
    if ranks.main:
        torch.save(results, out)
"""


@pytest.mark.slow
def test_every_sample_is_trained_on_and_evaluated_once(together, shard_folder, tmp_path):
    shards = ShardSet.open(shard_folder)
    loaders = [each for each in ("torchvision", "native") if not loader_class(each).unavailable(shards, "cpu")]
    script = tmp_path / "work.py"
    script.write_text(WORK)
    given = [str(script), str(shard_folder), str(together[0])]
    processes = [
        *start_ranks([*given, str(tmp_path / "two.pt"), *loaders]),
        start([*given, str(tmp_path / "one.pt"), *loaders]),
    ]
    for process in processes:
        finish(process)
    for two, one in zip(*(torch.load(tmp_path / name) for name in ("two.pt", "one.pt")), strict=True):
        first, second = two["parts"]
        both = [a + b for a, b in zip(first, second, strict=True)]
        assert both == one["parts"][0], "the same batches, in two parts"
        assert sorted(number for batch in both for number in batch) == shards.ids("train").tolist()
        assert two["delivered"] == one["delivered"]
        assert two["ids"] == one["ids"] and two["top"] == one["top"]
        assert two["evaluation"].pop("loss") == pytest.approx(one["evaluation"].pop("loss"), rel=1e-6)
        assert two["evaluation"] == one["evaluation"]


@pytest.mark.slow
def test_accumulated_parts_train_as_one_batch(shard_folder, tmp_path):
    """Two batches of one photograph on each of two ranks, averaged over the ranks once: the same as a batch of four."""
    settings = {"epochs": 1, "class_weights": "none", "figures": False}  # class weights are normalized batch by batch
    parts = train_line(shard_folder, tmp_path / "parts", batch_size=1, grad_accumulation=2, **settings)
    ranks = start_ranks(parts)
    finish(start(train_line(shard_folder, tmp_path / "whole", batch_size=4, **settings)))
    said, _ = (finish(process) for process in ranks)
    assert "2 x 1 = 2" in said
    mine, other = (last_state(folder_in(tmp_path / name)) for name in ("parts", "whole"))
    assert mine["step"] == other["step"]
    for name, tensor in other["model"].items():
        torch.testing.assert_close(mine["model"][name], tensor, rtol=0, atol=1e-5, msg=name)


def test_only_what_a_step_reads_is_broadcast_in_each_step(monkeypatch):
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "fasttrain.ranks.DistributedDataParallel", lambda part, **given: made.append(given) or SimpleNamespace()
    )
    norms = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    with_others = torch.nn.Sequential(norms, torch.nn.utils.spectral_norm(torch.nn.Linear(4, 4)))
    assert [Ranks(0, 2).parallel(each).broadcast_buffers for each in (norms, with_others)] == [False, True]
    assert all(each["gradient_as_bucket_view"] for each in made)


@pytest.mark.slow
def test_resumed_before_a_lone_sample_that_batch_norm_does_not_train_on(photographs, tmp_path):
    """It goes by the statistics that are rank 0's, whichever steps rank 1 has made since the last checkpoint."""
    convert(str(photographs), tmp_path / "shards", workers=1, progress=False)
    assert len(ShardSet.open(tmp_path / "shards").ids("train")) % 4 == 2, "each rank has one of the last step's two"
    settings = {"model": "test_resnet", "epochs": 1, "save_every": 13, "keep": 100, "figures": False}
    for each in start_ranks(train_line(tmp_path / "shards", tmp_path / "runs", **settings)):
        finish(each)
    run = folder_in(tmp_path / "runs")
    uninterrupted = last_state(run)["model"]
    checkpoints = sorted((run / "checkpoints").iterdir())
    for each in start_ranks([*program(None, tmp_path, False), "train", "--resume", str(checkpoints[0])]):
        finish(each)
    resumed = last_state(run)
    assert resumed["step"] > 13
    assert all(torch.equal(resumed["model"][name], each) for name, each in uninterrupted.items())


@pytest.mark.slow
def test_sigterm_stops_both_at_one_step_and_one_process_goes_on(alone, shard_folder, tmp_path):
    runs = tmp_path / "runs"
    ranks = start_ranks(train_line(shard_folder, runs, pause_at=2))
    with paused(ranks[0], tmp_path):
        ranks[1].send_signal(signal.SIGTERM)
    said = [finish(process, 75) for process in ranks]
    assert "--resume" in said[0] and "stopped by SIGTERM" in said[0] and not said[1]
    state = last_state(folder_in(runs))
    assert state["step"] >= 2 and state["epoch"] < 2 and len(state["rng_of_others"]) == 1
    assert state["loader"]["samples"] == state["step"] * 4 - state["epoch"] * len(
        ShardSet.open(shard_folder).ids("train")
    )
    finish(start_run(shard_folder, tmp_path, bare=True, resume=folder_in(runs), batch_size=4, figures=False))
    assert_same_run(folder_in(runs), alone, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.full
def test_torchrun_restarts_a_killed_rank_from_the_last_checkpoint(together, shard_folder, tmp_path):
    runs = tmp_path / "runs"
    line = train_line(shard_folder, runs, pause_at=3)
    torchrun = start([*TORCHRUN, str(free_port()), "--max-restarts", "1", *line])
    with paused(torchrun, tmp_path):
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
    output = finish(torchrun)
    assert "resuming" in output
    assert_same_run(folder_in(runs), together[0], tolerance=0)


@pytest.mark.slow
def test_what_one_rank_fails_with_ends_both_in_one_line(shard_folder, tmp_path):
    broken = tmp_path / "shards"
    shutil.copytree(shard_folder, broken)
    shards = ShardSet.open(broken)
    settings = LoaderSettings(2, 32, Crop(), seed=42, rank=1, world_size=2)
    of_rank_1 = loader_class("torchvision")(shards, shards.ids("train"), settings).plan().batch(3, 2, 1, 2).ids[0]
    row = shards.index[of_rank_1]
    with (broken / shards.manifest.shards[row["shard"]].name).open("r+b") as tar:
        tar.seek(int(row["offset"]))
        tar.write(b"\0" * int(row["length"]))
    for said, data, model in (("rank 1: ", broken, "test_convnext"), ("did you mean", shard_folder, "test_convnet")):
        ranks = start_ranks(train_line(data, tmp_path / "runs", model=model))
        first, second = (finish(process, 2) for process in ranks)
        assert said in first.splitlines()[-1] and first.count("fasttrain: ") == 1 and "Traceback" not in first
        assert not second
    assert last_state(next((tmp_path / "runs").glob("*/checkpoints/step-*")).parents[1])["step"] == 3


@pytest.mark.full
def test_two_ranks_train_on_sets_of_classes_as_one_does(
    multi_label_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = []
    for name, batch_size, command in (("one", 16, []), ("two", 8, [*TORCHRUN, str(free_port())])):
        out = tmp_path_factory.mktemp(name)
        line = train_line(multi_label_shards, out, batch_size=batch_size, save_every=1000, epochs=1, figures=False)
        finish(start([*command, *line]))
        run = folder_in(out)
        found.append((last_state(run)["history"][-1], json.loads((run / "model.json").read_text())["thresholds"]))
    (alone, cuts), (together, other_cuts) = found
    for metric in ("train_loss", "val_loss", "val_map", "val_macro_f1", "train_subset_accuracy"):
        assert together[metric] == pytest.approx(alone[metric], rel=1e-3), metric
    assert other_cuts == pytest.approx(cuts, abs=1e-4)
