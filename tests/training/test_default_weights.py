"""Which pretrained weights a new run takes, and that resumed and old runs keep theirs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from rich.console import Console
from safetensors.torch import save_file

from fasttrain import train
from fasttrain.config.load import resolve
from fasttrain.training.default_weights import DEFAULT_WEIGHTS, keep_weights, with_default_weights
from tests.support.runs import SMALL

TAGGED = [f"{name}.{tag}" for name, tag in DEFAULT_WEIGHTS.items()]
B0 = "efficientnet_b0.ra4_e3600_r224_in1k"


@pytest.mark.parametrize("tagged", TAGGED)
def test_the_tag_of_the_table_is_taken_and_told(tagged):
    config, notes = with_default_weights(resolve({"model": tagged.partition(".")[0]}))
    assert config.model == tagged
    assert len(notes) == 1 and tagged in notes[0]


@pytest.mark.parametrize(
    "given",
    [
        {"model": "efficientnet_b0.ra_in1k"},
        {"model": "mobilenetv2_100"},
        {"model": "efficientnet_b0", "pretrained": False},
    ],
)
def test_what_is_given_wins(given):
    config = resolve(given)
    assert with_default_weights(config) == (config, [])


@pytest.mark.parametrize(
    ("given", "taken"), [("efficientnet_b0", B0), ("efficientnet_b0.ra_in1k", "efficientnet_b0.ra_in1k")]
)
@pytest.mark.parametrize("said_by", ["model.json", "checkpoint"])
def test_weights_of_a_run_bring_its_tag_and_with_it_its_normalization(tmp_path, given, taken, said_by):
    weights = tmp_path / ("model.safetensors" if said_by == "model.json" else "model_best.pth.tar")
    if said_by == "model.json":
        (tmp_path / "model.json").write_text(json.dumps({"model": B0, "classes": ["a", "b"]}))
        save_file({"weight": torch.zeros(1)}, weights)
    else:
        torch.save({"arch": B0, "state_dict": {"weight": torch.zeros(1)}}, weights)
    config, notes = with_default_weights(resolve({"model": given, "weights": weights}))
    assert config.model == taken
    assert notes == ([f"model: {B0}, that of {weights}"] if taken != given else [])


def test_weights_from_elsewhere_bring_no_tag(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "mine.safetensors")
    config = resolve({"model": "efficientnet_b0", "weights": tmp_path / "mine.safetensors"})
    assert with_default_weights(config) == (config, [])


def test_an_older_timm_without_the_tag_takes_its_own_default_and_says_so(monkeypatch):
    monkeypatch.setitem(DEFAULT_WEIGHTS, "efficientnet_b0", "of_a_later_timm")
    config, notes = with_default_weights(resolve({"model": "efficientnet_b0"}))
    assert config.model == "efficientnet_b0"
    assert notes == [
        f"weights: timm's default, as timm {timm.__version__} has no efficientnet_b0.of_a_later_timm; try a newer timm"
    ]


@pytest.mark.parametrize(
    ("then", "now", "kept"),
    [
        (B0, "efficientnet_b0", B0),
        ("efficientnet_b0", "efficientnet_b0", "efficientnet_b0"),
        (B0, "efficientnet_b0.ra_in1k", "efficientnet_b0.ra_in1k"),
        ("efficientnet_b0", B0, B0),
        (B0, "efficientnet_b1", "efficientnet_b1"),
        ("mine.nets:small", "mine", "mine"),
    ],
)
def test_a_resumed_run_keeps_its_weights(then, now, kept):
    assert keep_weights(then, now) == kept


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put weights of B0, random ones, where the hub client keeps what it has downloaded."""
    repository = tmp_path / "hub" / f"models--timm--{B0}"
    (repository / "snapshots" / "1").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    save_file(timm.create_model(B0).state_dict(), repository / "snapshots" / "1" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.slow
def test_a_run_stores_the_tag_and_has_its_normalization_before_and_after_resuming(hub_cache, shard_folder, tmp_path):
    said = io.StringIO()
    settings = {**SMALL, "model": "efficientnet_b0", "pretrained": True, "epochs": 1, "limit_batches": 1}
    arguments = {"data": shard_folder, "track": False, "out": tmp_path / "runs", **settings}
    folder = train(console=Console(file=said, width=200), **arguments).folder
    for _ in range(2):
        spec = json.loads((folder / "model.json").read_text())
        assert spec["model"] == B0 and spec["mean"] == [0.5, 0.5, 0.5]
        assert f'model = "{B0}"' in (folder / "config.toml").read_text()
        train(resume=str(folder), console=Console(file=said, width=200), **{**arguments, "epochs": 2})
    assert f"weights: {B0}" in said.getvalue()
    assert "model:" not in "".join(line for line in said.getvalue().splitlines() if "changed since" in line)
