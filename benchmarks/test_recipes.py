"""Measure the accuracy of the recipes, which loaders must not change: the drawn sample, small enough for two cores.

One model, size, batch and number of epochs for all; the rest is the recipe's. From scratch, as this needs no network:
`layer_decay`, which spares weights that were trained before, is left out by the recipe itself.
"""

from __future__ import annotations

import statistics
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from fasttrain import train
from fasttrain.config.recipes import RECIPES
from fasttrain.shards.convert import convert

EPOCHS = 40
SEEDS = (1, 2, 3)
SAME = {
    "model": "mobilenetv2_050",
    "pretrained": False,
    "image_size": 64,
    "batch_size": 32,
    "early_stopping": 0,
    "track": False,
}
COLOURS = {"classic": "#8c96a3", "fast": "#1b7837", "accurate": "#762a83"}


@pytest.fixture(autouse=True)
def _long(short):
    if short:
        pytest.skip("not in the short form")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "shards"
    convert("sample", out, progress=False, format="tar,beton")
    return out


def seconds_to(history: list[dict[str, Any]], top1: float) -> float | None:
    """Seconds of training until validation first reached `top1`; None where it never did."""
    spent = accumulate(record["epoch_seconds"] for record in history)
    return next((at for at, record in zip(spent, history, strict=True) if record["val_top1"] >= top1), None)


def draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for name, history in curves.items():
        top1 = [100 * record["val_top1"] for record in history]
        left.plot([record["epoch"] for record in history], top1, color=COLOURS[name], label=name)
        seconds = list(accumulate(record["epoch_seconds"] for record in history))
        right.plot(seconds, top1, color=COLOURS[name], label=name)
    left.set(xlabel="epoch", ylabel="validation top1, %")
    right.set(xlabel="seconds of training")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white")
    plt.close(figure)


def test_recipes(sample, tmp_path, results):
    """All with one budget of epochs."""
    runs = {name: train(data=sample, out=tmp_path, recipe=name, epochs=EPOCHS, seed=1, **SAME) for name in RECIPES}
    part = {
        name: {
            "best val_top1": max(record["val_top1"] for record in run.history),
            "final top1": run.evaluation.top1,
            "final loss": run.evaluation.loss,
            "seconds": sum(record["epoch_seconds"] for record in run.history),
            "seconds to 90 %": seconds_to(run.history, 0.9),
            "history": run.history,
        }
        for name, run in runs.items()
    }
    results.add("recipes", part)
    draw({name: run.history for name, run in runs.items()}, results.folder / "recipes.png")
    rows = []
    for name, found in part.items():
        reached = found["seconds to 90 %"]
        rows.append([
            name,
            f"{100 * found['final top1']:.1f} %",
            f"{found['final loss']:.3f}",
            f"{found['seconds']:.0f}",
            f"{reached:.0f}" if reached is not None else "not reached",
        ])  # fmt: skip
    header = [
        f"recipe, {EPOCHS} epochs",
        "top1 of the best epoch",
        "loss",
        "seconds of training",
        "seconds to 90 %",
    ]
    results.add_table("recipes", header, rows)


def test_loaders_reach_the_same(sample, tmp_path, results):
    """FFCV's and torchvision's, whose decoders and resizes differ most, with three seeds each."""
    names = ("ffcv", "torchvision")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in SEEDS:
        for name in names:
            settings = {**SAME, "recipe": "fast", "epochs": 30, "seed": seed, "loader": name}
            found[name].append(train(data=sample, out=tmp_path, **settings).evaluation.top1)
    results.add("loaders_top1", found)
    rows = [
        [name, *(f"{100 * top1:.1f}" for top1 in each), f"{100 * statistics.mean(each):.1f}"]
        for name, each in found.items()
    ]
    results.add_table("loaders_top1", ["loader: top1 in %", *(f"seed {seed}" for seed in SEEDS), "mean"], rows)
