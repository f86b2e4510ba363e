"""The linear probe: features once, then the head is solved for; an ordinary run around that."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fasttrain import evaluate, train
from fasttrain.config.load import resolve
from fasttrain.errors import Stopped, UserError
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.model.factory import create_model
from fasttrain.model.freeze import freeze_body
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from fasttrain.training import linear_probe
from tests.support.host_waits import GPU, fake_gpu
from tests.support.runs import SMALL, killed_after, last_state

PROBE = {**SMALL, "image_size": 32, "linear_probe": True, "track": False, "deterministic": True}
PROBE.pop("learning_rate")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def begin(tmp_path: Path) -> Path:
    """Weights whose features tell classes apart somewhat: random ones, normalized by one pass of BatchNorm."""
    torch.manual_seed(3)
    model = create_model("mobilenetv2_035", 6)
    model.train()(torch.randn(16, 3, 32, 32))
    save_file(model.state_dict(), tmp_path / "begin.safetensors")
    return tmp_path / "begin.safetensors"


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    load = TorchvisionLoader._load

    def counted(self: TorchvisionLoader, batches: Any) -> Any:
        for images, bad in load(self, batches):
            counts.append(len(images))
            yield images, bad

    monkeypatch.setattr(TorchvisionLoader, "_load", counted)
    return counts


@pytest.mark.slow
def test_a_probe_decodes_each_photograph_once_and_leaves_an_ordinary_run(shard_folder, tmp_path, begin, monkeypatch):
    counts = count_decoded(monkeypatch)
    run = train(data=shard_folder, out=tmp_path, weights=begin, **{**PROBE, "epochs": 4})
    assert sum(counts) == 96, "train and val, each photograph once, for four epochs and the last evaluation"
    by_penalty = sorted(run.history, key=lambda record: -record["l2"])
    losses = [record["train_loss"] for record in by_penalty]
    assert losses == sorted(losses, reverse=True), "a weaker penalty fits the training split better"
    assert [record["l2"] for record in by_penalty] == pytest.approx([1 / (C * 78) for C in np.logspace(-4, 0, 4)])
    assert run.best_epoch == 1 + min(range(4), key=lambda epoch: run.history[epoch]["val_loss"])
    after, begun = load_file(run.folder / "model.safetensors"), load_file(begin)
    changed = {name for name in begun if not torch.equal(begun[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    monkeypatch.undo()
    pictures = evaluate(run.folder, shard_folder, split="val", loader="torchvision", workers=0, device="cpu")
    assert pictures.loss == pytest.approx(run.evaluation.loss, rel=1e-3)
    assert (run.folder / "curves.png").exists() and (run.folder / "evaluation.json").exists()


@pytest.mark.slow
def test_other_labels_of_the_same_photographs_need_no_new_features(
    photographs, shard_folder, tmp_path, begin, monkeypatch
):
    counts = count_decoded(monkeypatch)
    settings = {**PROBE, "weights": begin, "out": tmp_path, "epochs": 1}
    first = train(data=shard_folder, **settings)
    (tmp_path / "fixes.csv").write_text("path,label\npizza/0003.jpg,soup\n")
    options = SourceOptions(relabel=tmp_path / "fixes.csv", splits=shard_folder / "splits.csv")
    convert(photographs, tmp_path / "fixed", options=options, workers=1, progress=False)
    second = train(data=tmp_path / "fixed", **settings)
    assert sum(counts) == 96 and first.history[0]["train_loss"] != second.history[0]["train_loss"]


@pytest.mark.slow
def test_features_are_found_again_until_something_that_shapes_them_changes(
    shard_folder, tmp_path, begin, monkeypatch, cache
):
    counts = count_decoded(monkeypatch)

    def decoded(**changes: Any) -> int:
        counts.clear()
        train(data=shard_folder, out=tmp_path / "runs", **{**PROBE, "weights": begin, "epochs": 1, **changes})
        return sum(counts)

    assert decoded() == 96
    assert decoded(learning_rate=0.01, batch_size=7, seed=8, drop_rate=0.1, drop_path=0.1) == 0, (
        "none of these shapes a feature"
    )
    torn = next(cache.glob("*-train.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])
    assert 0 < decoded() < 96, "the torn file, and that alone, is made again"
    assert decoded(image_size=48) == 96
    assert decoded(interpolation="bicubic") == 96
    assert decoded(weights=None, seed=9) == 96
    assert decoded() == 0


@pytest.mark.slow
def test_features_of_a_photograph_that_was_replaced_are_computed_again(photographs, tmp_path, begin, monkeypatch):
    """The new photograph has the same name, size and time of modification, in a folder of photographs."""
    folder = tmp_path / "photographs"
    for name in ("pizza", "soup"):
        shutil.copytree(photographs / name, folder / name)
    settings = {**PROBE, "weights": begin, "epochs": 1, "limit_batches": 1}
    train(data=folder, out=tmp_path / "runs", **settings)
    counts = count_decoded(monkeypatch)
    train(data=folder, out=tmp_path / "runs", **settings)
    assert not sum(counts)
    smaller, larger = sorted((folder / "soup").iterdir(), key=lambda path: path.stat().st_size)[:2]
    before = larger.stat()
    larger.write_bytes(smaller.read_bytes() + bytes(before.st_size - smaller.stat().st_size))
    os.utime(larger, ns=(before.st_atime_ns, before.st_mtime_ns))
    train(data=folder, out=tmp_path / "runs", **settings)
    assert sum(counts) == 32


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(shard_folder, tmp_path, begin):
    settings = {**PROBE, "weights": begin, "epochs": 4, "early_stopping": 0}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    with killed_after(lambda state: state["epoch"] == 2):
        train(data=shard_folder, out=tmp_path / "killed", **settings)
    resumed = train(resume="auto", out=tmp_path / "killed")
    ours, theirs = (last_state(run.folder)["model"] for run in (resumed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.best_epoch == alone.best_epoch


@pytest.mark.slow
def test_a_resumed_probe_with_more_epochs_tries_the_penalties_between(shard_folder, tmp_path, begin):
    settings = {**PROBE, "weights": begin, "epochs": 3, "early_stopping": 0}
    run = train(data=shard_folder, out=tmp_path, **settings)
    first = [record["l2"] for record in run.history]
    longer = [record["l2"] for record in train(resume=str(run.folder), epochs=5).history]
    samples = len(ShardSet.open(shard_folder).ids("train"))
    assert [1 / (l2 * samples) for l2 in first] == pytest.approx([1e-2, 1, 1e-4])
    assert longer[:3] == first and [1 / (l2 * samples) for l2 in longer[3:]] == pytest.approx([1e-1, 1e-3])


@pytest.mark.slow
def test_stopped_while_it_solves_and_resumed_bit_for_bit(shard_folder, tmp_path, begin, monkeypatch):
    settings = {**PROBE, "weights": begin, "epochs": 3}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    solve, calls = linear_probe.solve_head, []

    def stopped_in_the_second(*arguments: Any, **named: Any) -> bool:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return solve(*arguments, **named)

    monkeypatch.setattr(linear_probe, "solve_head", stopped_in_the_second)
    with pytest.raises(Stopped):
        train(data=shard_folder, out=tmp_path / "stopped", **settings)
    assert len(calls) == 2
    resumed = train(resume="auto", out=tmp_path / "stopped")
    ours, theirs = (last_state(run.folder)["model"] for run in (resumed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_settings_that_need_gradient_steps_are_said_to_be_unused(shard_folder, tmp_path, begin, capsys):
    settings = {**PROBE, "weights": begin, "learning_rate": 0.3, "ema_decay": 0.9}
    train(data=shard_folder, out=tmp_path, **settings)
    said = " ".join(capsys.readouterr().out.split())
    assert "learning_rate=0.3, ema_decay=0.9 are not used, as the head is solved for without gradient steps" in said


def test_a_recipe_changes_nothing():
    assert resolve({"recipe": "fast", "linear_probe": True}).plain() == {
        **resolve({"linear_probe": True}).plain(),
        "recipe": "fast",
    }


def test_features_that_are_not_finite_are_refused(shard_folder, tmp_path, begin):
    broken = load_file(begin)
    broken["conv_stem.weight"].fill_(float("nan"))
    save_file(broken, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"features of sample \d+ are not finite"):
        train(data=shard_folder, out=tmp_path, **{**PROBE, "weights": tmp_path / "nan.safetensors"})


def test_what_needs_pixels_is_refused_in_one_line():
    for name, value in (("rand_augment", "n2-m9"), ("mixup", 0.2), ("freeze", 3), ("tta", "flip"), ("vflip", 0.5)):
        with pytest.raises(UserError, match=f"{name} = .* can't be combined with linear_probe"):
            resolve({"linear_probe": True, name: value})


def test_a_head_that_is_more_than_one_layer_is_refused():
    with pytest.raises(UserError, match="not one linear layer"):
        freeze_body(create_model("test_byobnet", 0))
    model = create_model("mobilenetv2_035", 3)
    features = model.eval().forward_head(model.forward_features(torch.zeros(1, 3, 32, 32)), pre_logits=True)
    with torch.no_grad():
        linear_probe._require_linear(model, torch.zeros(1, 3, 32, 32), features)
        with pytest.raises(UserError, match="more layers than a linear head"):
            linear_probe._require_linear(model, torch.ones(1, 3, 32, 32), features + 1)
    assert not model.classifier.weight.any(), "the check leaves the head as it was"


def test_the_host_waits_for_features_once_in_ten_batches(monkeypatch):
    monkeypatch.setattr(linear_probe, "_require_linear", lambda *_: None)  # it needs a generator of a real GPU
    with fake_gpu() as waits:
        with GPU:
            model = create_model("mobilenetv2_035", 6)
            preprocess = NormalizePixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), channels_last=True)
        ids = torch.arange(4)
        batches = ((torch.zeros(4, 32, 32, 3, dtype=torch.uint8), ids, ids) for _ in range(31))
        waits.clear()
        features = linear_probe._compute(model, batches, preprocess, contextlib.nullcontext, GPU, "linear_probe")
    assert features.shape == (31 * 4, 1280) and not features.is_cuda
    assert waits == {"copy": 1 + 3}, "the first batch, and three times ten"
