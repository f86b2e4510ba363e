"""`train --profile`: a trace with the phases' names in it, and the same training as without."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fasttrain import train
from fasttrain.loaders.registry import loader_class
from fasttrain.shards.reader import ShardSet
from fasttrain.training.step import PHASES
from tests.support.runs import SMALL

TINY = {**SMALL, "image_size": 32, "batch_size": 4, "epochs": 1, "track": False}


def ranges(folder: Path) -> tuple[Counter[str], list[str]]:
    """How often each named range was entered, and their names in order."""
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    entered = sorted((each["ts"], each["name"]) for each in events if each.get("cat") == "user_annotation")
    names = [name for _, name in entered if name in PHASES]
    assert any("conv" in each.get("name", "") for each in events), "the model's operations belong in it"
    return Counter(names), names


@pytest.mark.parametrize("name", ["native", "torchvision", "dali", "ffcv"])
@pytest.mark.full
def test_each_loaders_trace_has_three_steps_of_all_phases(name, shard_folder, tmp_path, capsys):
    if reason := loader_class(name).unavailable(ShardSet.open(shard_folder), "cpu"):
        pytest.skip(reason)
    settings = {**TINY, "loader": name, "workers": 1, "limit_batches": 12}
    result = train(data=shard_folder, out=tmp_path, profile=True, **settings)
    counts, names = ranges(result.folder)
    assert counts == dict.fromkeys(PHASES, 3)
    assert names == [*PHASES] * 3
    assert "trace.json.gz" in capsys.readouterr().out, "the summary lists it"
    left = {path.name for path in result.folder.iterdir() if path.name.startswith(".")}
    assert not left


@pytest.mark.slow
def test_an_epoch_of_two_steps_is_traced_whole(shard_folder, tmp_path):
    result = train(data=shard_folder, out=tmp_path, profile=True, **TINY, limit_batches=2)
    assert ranges(result.folder)[0] == dict.fromkeys(PHASES, 2)


@pytest.mark.slow
def test_a_traced_run_trains_the_same_and_is_traced_once(shard_folder, tmp_path):
    settings = {**TINY, "epochs": 2, "deterministic": True, "limit_batches": 4, "drop_rate": 0.2, "ema_decay": 0.9}
    try:
        traced, plain = (
            train(data=shard_folder, out=tmp_path / str(profile), profile=profile, **settings)
            for profile in (True, False)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in (traced, plain))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert ranges(traced.folder)[0]["forward"] == 3, "one of four warms the profiler up"
    assert not (plain.folder / "trace.json.gz").exists()
