"""A training step on its own: no files, no shards, no MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fasttrain.model.precision import make_precision
from fasttrain.ranks import StepAgreement
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.loop import step_batches, train_epoch
from fasttrain.training.optim import Schedule
from fasttrain.training.state import Totals, TrainingState
from fasttrain.training.step import PHASES, Step, StepBatch

CPU = torch.device("cpu")
CLASSES, SIDE, SAMPLES = 3, 4, 20


class Photographs:
    """A loader of drawn pictures that leaves out some samples, as one that meets bad files does."""

    def __init__(self, batch_size: int, left_out: tuple[int, ...] = ()) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (SAMPLES, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
        self.settings = SimpleNamespace(batch_size=batch_size)
        self.left_out, self.delivered = left_out, 0

    def state_dict(self) -> dict[str, int]:
        return {"samples": self.delivered}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for ids in torch.arange(self.delivered, SAMPLES).split(self.settings.batch_size):
            self.delivered += len(ids)
            kept = ids[~torch.isin(ids, torch.tensor(self.left_out, dtype=torch.int64))]
            yield self.images[kept], self.labels[kept], kept


class Flat(torch.nn.Module):
    """uint8 [n, H, W, 3] to float [n, 3 * H * W]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float() / 255


def begin(loader: Any, **changes: Any) -> tuple[TrainingState, Step]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3 * SIDE * SIDE, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = Schedule(
        optimizer, "constant", learning_rate=0.1, epochs=1, steps_per_epoch=5, patience=0, factor=0.5, warmup_epochs=0
    )
    precision = make_precision("fp32", model, CPU)
    state = TrainingState(
        model, None, optimizer, schedule, precision.scaler, EarlyStopping(0), Totals(CPU), loader, "sgd"
    )
    weights = changes.get("class_weights")
    criterion = torch.nn.CrossEntropyLoss(weights)
    return state, replace(Step(CPU, Flat(), criterion, precision.autocast, None, []), **changes)


def alone(samples: int, weight: float) -> StepAgreement:
    return StepAgreement(samples, weight, None)


def nothing(*told: object) -> None:
    """For what a run would save or show."""


def trained(batch_size: int, *, left_out: tuple[int, ...] = (), **changes: Any) -> TrainingState:
    state, step = begin(Photographs(batch_size, left_out), **changes)
    train_epoch(state, step, agree=alone, after_step=nothing, show=nothing)
    return state


def one_step(ids: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The weights after one plain PyTorch step on the photographs `ids`."""
    data = Photographs(SAMPLES)
    state, _ = begin(data)
    loss = torch.nn.functional.cross_entropy(state.model(Flat()(data.images[ids])), data.labels[ids], weights)
    loss.backward()
    state.optimizer.step()
    return state.model.weight.detach()


@pytest.mark.parametrize("left_out", [(), (1, 9, 10, 11), tuple(range(8, 16))])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 3.0])])
def test_accumulated_batches_are_one_large_batch_without_the_bad_samples(left_out, weights):
    state = trained(8, left_out=left_out, accumulate=3, class_weights=weights)
    kept = torch.tensor([each for each in range(SAMPLES) if each not in left_out])
    torch.testing.assert_close(state.model.weight.detach(), one_step(kept, weights))
    assert state.step == 1
    loss, _ = state.totals.means()
    expected = trained(SAMPLES, left_out=left_out, class_weights=weights).totals.means()[0]
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_shares_of_all_ranks_make_one_large_batch():
    """DistributedDataParallel averages the ranks' gradients, so their sum here is halved."""
    weights, gradients = torch.tensor([0.2, 1.0, 3.0]), []
    data = Photographs(SAMPLES)
    whole = float(weights[data.labels].sum())
    for ids in (torch.arange(0, 13), torch.arange(13, SAMPLES)):  # unequal, as at an epoch's end
        state, step = begin(Photographs(SAMPLES), class_weights=weights, ranks=2)
        before = state.model.weight.detach().clone()
        batch = StepBatch(data.images[ids], data.labels[ids], ids, 0, SAMPLES)
        step(state, [batch], StepAgreement(SAMPLES, whole, None))
        gradients.append((before - state.model.weight.detach()) / 0.1)
    state, _ = begin(data)
    expected = (state.model.weight.detach() - one_step(torch.arange(SAMPLES), weights)) / 0.1
    torch.testing.assert_close(sum(gradients) / 2, expected, atol=1e-6, rtol=1e-4)


def test_a_step_whose_samples_are_all_left_out_changes_nothing():
    state = trained(10, left_out=tuple(range(10)), clip_grad=1.0)
    assert state.step == 1, "one of the two steps had nothing to learn from"


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left():
    loader = Photographs(4, left_out=(5, 6))
    steps = list(step_batches(loader, 3))  # type: ignore[arg-type]
    assert [[(each.begin, each.end) for each in batches] for batches in steps] == [
        [(0, 4), (4, 8), (8, 12)],
        [(12, 16), (16, 20)],
    ]
    loader.delivered = 8  # like in a run that was resumed there
    assert [[(each.begin, each.end) for each in batches] for batches in step_batches(loader, 3)] == [  # type: ignore[arg-type]
        [(8, 12), (12, 16), (16, 20)]
    ]


def test_the_gradient_is_clipped_before_the_update():
    state, step = begin(Photographs(SAMPLES), clip_grad=1e-3)
    before = [each.detach().clone() for each in state.model.parameters()]
    train_epoch(state, step, agree=alone, after_step=nothing, show=nothing)
    moved = [now.detach() - then for now, then in zip(state.model.parameters(), before, strict=True)]
    assert torch.cat([each.flatten() for each in moved]).norm() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_every_phase_is_entered_in_order_once_a_step():
    entered: list[str] = []

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    trained(10, phase=phase)
    assert entered == [*PHASES, *PHASES, "data"], "two steps, and the look that finds the epoch at its end"
