"""Training as it is, loader and all, against its step alone on a batch held in memory: what the data path costs.

A CPU shares its cores between the two, so here the loader's own work shows too; `test_scaling.py` has the consumer that
only sleeps, as a GPU's step would leave the cores alone.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from rich.console import Console

from fasttrain.config.load import resolve
from fasttrain.device import choose_device
from fasttrain.model.precision import amp_problem
from fasttrain.profiling.measure import measure
from fasttrain.ranks import Ranks
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts

ROUNDS, STEPS = 3, 12


@pytest.fixture(autouse=True)
def _long(short):
    if short:
        pytest.skip("not in the short form")


def once(**settings):
    """img/s together and alone."""
    config = resolve({}, {"pretrained": False, "epochs": 1000, "batch_size": 32, **settings})
    parts = make_parts(RunStart(config), Console(quiet=True), Ranks())
    try:
        found = measure(parts.state, parts.step, STEPS, lambda part: None)
    finally:
        parts.loaders.close()
    return found.together.rate, found.step_alone.rate


def test_end_to_end_against_the_step_alone(shards, results):
    precisions = {"fp32": False} if amp_problem(choose_device("auto"), "bf16") else {"fp32": False, "bf16": True}
    models = ("mobilenetv2_100", "efficientnet_b0")[: 2 if torch.cuda.is_available() else 1]
    cases = {
        f"{model}, {precision}, {loader}": {"model": model, "amp": amp, "loader": loader, "data": str(shards.location)}
        for model in models
        for precision, amp in precisions.items()
        for loader in ("native", "torchvision")
    }
    rounds = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, settings in cases.items():
            rounds[name].append(once(**settings))
    part = {
        name: {
            "together": statistics.median(together for together, _ in each),
            "alone": statistics.median(alone for _, alone in each),
            "share": statistics.median(together / alone for together, alone in each),
        }
        for name, each in rounds.items()
    }
    results.add("step_alone", part)
    rows = [
        [name, f"{each['together']:.1f}", f"{each['alone']:.1f}", f"{100 * each['share']:.1f} %"]
        for name, each in part.items()
    ]
    results.add_table("step_alone", ["training", "img/s", "the step alone", "share"], rows)
