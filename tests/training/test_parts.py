"""The parts of training, one by one: schedules, early stopping, freezing, seeds, devices, sums."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import timm
import torch

from fasttrain.device import choose_device
from fasttrain.errors import UserError
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.optim import Schedule, create_optimizer
from fasttrain.training.seeds import load_rng_state, rng_state, seed_everything
from fasttrain.training.state import Totals


def schedule(kind: str, **changes: float) -> tuple[Schedule, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    settings = {"learning_rate": 0.1, "epochs": 4, "steps_per_epoch": 10, "patience": 1, "factor": 0.5}
    return Schedule(
        optimizer, kind, warmup_epochs=changes.pop("warmup_epochs", 0), **{**settings, **changes}
    ), optimizer


def rates(kind: str, **changes: float) -> list[float]:
    made, optimizer = schedule(kind, **changes)
    found = []
    for _ in range(40):
        found.append(made.learning_rate)
        optimizer.step()
        made.after_step()
    return found


def test_plateau_follows_validation_loss():
    made, _ = schedule("plateau")
    for loss in (1.0, 0.9, 0.95, 0.96):
        made.after_epoch(loss)
    assert made.learning_rate == pytest.approx(0.05)


def test_plateau_state_goes_on_where_it_was():
    made, _ = schedule("plateau")
    for loss in (0.9, 0.95):
        made.after_epoch(loss)
    other, _ = schedule("plateau")
    other.load_state_dict(made.state_dict())
    other.after_epoch(0.96)
    assert other.learning_rate == pytest.approx(0.05)


def test_cosine_warms_up_and_decays():
    found = rates("cosine", warmup_epochs=1)
    assert found[0] == pytest.approx(0.001) and max(found) == pytest.approx(found[10], rel=0.2)
    assert all(a >= b for a, b in itertools.pairwise(found[10:])) and found[-1] < 0.005


def test_onecycle_rises_and_falls():
    found = rates("onecycle")
    peak = int(np.argmax(found))
    assert 8 <= peak <= 14 and found[peak] == pytest.approx(0.1, rel=0.01) and found[-1] < 0.001


@pytest.mark.parametrize("kind", ["cosine", "onecycle", "constant"])
def test_schedule_state_round_trip(kind):
    whole = rates(kind)
    first, optimizer = schedule(kind)
    for _ in range(15):
        optimizer.step()
        first.after_step()
    second, resumed = schedule(kind)
    resumed.load_state_dict(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for step in range(16, 40):
        assert second.learning_rate == pytest.approx(whole[step - 1], abs=1e-12)
        resumed.step()
        second.after_step()


@pytest.mark.parametrize("kind", ["cosine", "onecycle"])
@pytest.mark.parametrize("changes", [{"steps_per_epoch": 5}, {"epochs": 8}])
def test_a_schedule_fits_other_epochs_when_resumed(kind, changes):
    first, optimizer = schedule(kind, warmup_epochs=1)
    for _ in range(24):
        optimizer.step()
        first.after_step()
    second, resumed = schedule(kind, warmup_epochs=1, **changes)
    resumed.load_state_dict(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    whole, fresh = schedule(kind, warmup_epochs=1, **changes)
    for _ in range(24 * changes.get("steps_per_epoch", 10) // 10):
        fresh.step()
        whole.after_step()
    for _ in range(8):
        assert second.learning_rate == pytest.approx(whole.learning_rate, rel=1e-9)
        for each, its in ((second, resumed), (whole, fresh)):
            its.step()
            each.after_step()


def test_a_checkpoint_of_schema_1_goes_on(tmp_path):
    """Its schedule knew no position of its own."""
    from fasttrain.checkpoint.file import load_checkpoint

    made, optimizer = schedule("onecycle")
    for _ in range(15):
        optimizer.step()
        made.after_step()
    old = {"schema": 1, "step": 15, "config": {"epochs": 4}, "schedule": made.state_dict()["active"]}
    torch.save(old, tmp_path / "last.pt")
    settings = {"kind": "onecycle", "learning_rate": 0.1}  # which `training.resume` takes from the run's settings
    assert {**settings, **load_checkpoint(tmp_path / "last.pt")["schedule"]} == made.state_dict()


def test_early_stopping_counts_epochs_without_improvement():
    stopping = EarlyStopping(patience=2)
    assert [stopping.update(epoch, loss) for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.85])] == [
        True,
        True,
        False,
        False,
    ]
    assert stopping.should_stop and stopping.best_epoch == 1
    never = EarlyStopping(patience=0, waited=100)
    assert not never.should_stop
    assert not EarlyStopping(patience=1).update(0, math.nan)


def test_weight_decay_spares_norms_and_biases():
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    optimizer = create_optimizer(model, "adamw", 1e-3, 0.05, 0.9)
    decayed = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    for name, parameter in model.named_parameters():
        assert decayed[id(parameter)] == (0.0 if parameter.ndim <= 1 else 0.05), name


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        create_optimizer(torch.nn.Linear(1, 1), "adamww", 1e-3, 0.0, 0.9)


def test_seeds_reach_every_generator_and_states_round_trip():
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    seed_everything(7, deterministic=False)
    first = draw()
    state = rng_state()
    second = draw()
    seed_everything(7, deterministic=False)
    assert draw() == first
    load_rng_state(state)
    assert draw() == second


def test_deterministic_mode_is_torchs():
    try:
        seed_everything(0, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        seed_everything(0, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_devices():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="not one of auto, cpu"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type in ("cpu", "mps")
        with pytest.raises(UserError, match="has 0 CUDA devices"):
            choose_device("cuda")


def test_totals_are_means_over_samples_not_batches():
    totals = Totals(torch.device("cpu"))
    totals.update(torch.tensor(1.0), torch.tensor([[2.0, 1.0]] * 3), torch.tensor([0, 0, 1]), 3)
    totals.update(torch.tensor(5.0), torch.tensor([[2.0, 1.0]]), torch.tensor([0]), 1)
    assert totals.means() == (2.0, 0.75)
