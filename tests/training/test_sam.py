"""`--sam`: the gradient is taken where the loss is worst nearby, and all else is as in a plain step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from fasttrain import train
from fasttrain.training.loop import train_epoch
from fasttrain.training.sam import climbed
from tests.support.runs import SMALL, killed_after, last_state
from tests.training.test_step import CLASSES, SAMPLES, SIDE, Flat, Photographs, alone, begin, nothing, trained

RHO = 0.5


def expected_weight() -> torch.Tensor:
    """The weights after one step of SAM on all photographs, as the paper writes it."""
    data = Photographs(SAMPLES)
    state, _ = begin(data)
    model = state.model

    def backward() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(Flat()(data.images)), data.labels).backward()

    backward()
    start = [each.detach().clone() for each in model.parameters()]
    norm = math.sqrt(sum(float(each.grad.square().sum()) for each in model.parameters()))
    with torch.no_grad():
        for each in model.parameters():
            each += RHO * each.grad / norm
    backward()
    with torch.no_grad():
        for each, before in zip(model.parameters(), start, strict=True):
            each.copy_(before - 0.1 * each.grad)
    return model.weight.detach()


@pytest.mark.parametrize(("batch_size", "accumulate"), [(SAMPLES, 1), (8, 3)])
def test_a_step_is_the_papers_also_over_accumulated_batches(batch_size, accumulate):
    state = trained(batch_size, accumulate=accumulate, sam=RHO)
    torch.testing.assert_close(state.model.weight.detach(), expected_weight())
    assert not torch.allclose(trained(SAMPLES).model.weight, expected_weight()), "a plain step goes elsewhere"
    assert state.totals.means() == pytest.approx(trained(SAMPLES).totals.means()), "the loss is that before the climb"


def test_a_loss_scale_changes_nothing_and_an_overflow_skips_the_step():
    state, step = begin(Photographs(8), accumulate=3, sam=RHO)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train_epoch(state, step, agree=alone, after_step=nothing, show=nothing)
    torch.testing.assert_close(state.model.weight.detach(), expected_weight())
    state, step = begin(Photographs(SAMPLES), sam=RHO)
    before = state.model.weight.detach().clone()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    state.model.weight.register_hook(lambda gradient: gradient * 1e10)
    train_epoch(state, step, agree=alone, after_step=nothing, show=nothing)
    assert torch.equal(state.model.weight, before) and state.totals.skipped_steps() == 1
    assert state.scaler.get_scale() == pytest.approx(1.5e38, rel=1e-3)


class Norm(torch.nn.Sequential):
    """BatchNorm before a linear layer."""

    def __init__(self) -> None:
        width = 3 * SIDE * SIDE
        super().__init__(torch.nn.BatchNorm1d(width), torch.nn.Linear(width, CLASSES))


def test_batch_norms_statistics_are_those_of_the_first_pass():
    def statistics(**changes: Any) -> dict[str, torch.Tensor]:
        state, step = begin(Photographs(10), accumulate=2, **changes)
        torch.manual_seed(0)
        state.model = Norm()
        state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.1)
        train_epoch(state, step, agree=alone, after_step=nothing, show=nothing)
        assert state.model[0].track_running_stats
        return dict(state.model[0].named_buffers())

    plain, sam = statistics(), statistics(sam=RHO)
    assert all(torch.equal(plain[name], sam[name]) for name in plain)
    assert int(sam["num_batches_tracked"]) == 2


def test_where_the_gradient_is_not_finite_nothing_moves():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    still = torch.nn.Parameter(torch.tensor([5.0]))
    parameter.grad = torch.tensor([float("inf"), 1.0])
    with climbed([parameter, still], RHO):
        assert parameter.tolist() == [1, 2] and parameter.grad is None
    parameter.grad = torch.tensor([0.0, 3e-3])
    with pytest.raises(KeyError), climbed([parameter, still], RHO):
        assert parameter.tolist() == [1, 2.5] and still.tolist() == [5]
        raise KeyError
    assert parameter.tolist() == [1, 2], "also where the second pass fails"


@pytest.fixture
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_ranks_exchange_gradients_once_a_step_with_the_last_batch_of_the_second_pass(group):
    state, step = begin(Photographs(8), accumulate=3, sam=RHO)
    parallel = DistributedDataParallel(state.model)
    weights = []

    def exchange(_, bucket):  # type: ignore[no-untyped-def]  # torch refuses annotations that are text
        weights.append(state.model.weight.detach().clone())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    parallel.register_comm_hook(None, exchange)
    start = state.model.weight.detach().clone()
    step = type(step)(**{**vars(step), "parallel": parallel})
    train_epoch(state, step, agree=alone, after_step=nothing, show=nothing)
    assert len(weights) == 1 and not torch.equal(weights[0], start), "where the climb has led"
    torch.testing.assert_close(state.model.weight.detach(), expected_weight())


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_killed_in_mid_epoch_and_resumed_bit_for_bit(shard_folder, tmp_path):
    settings = {**SMALL, "image_size": 32, "epochs": 1, "sam": 0.05, "drop_rate": 0.2, "save_every": 1}
    settings |= {"track": False, "deterministic": True, "grad_accumulation": 2, "batch_size": 8}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    with killed_after(lambda state: state["step"] == 2):
        train(data=shard_folder, out=tmp_path / "killed", **settings)
    resumed = train(resume="auto", out=tmp_path / "killed")
    ours, theirs = (last_state(run.folder)["model"] for run in (resumed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    plain = train(data=shard_folder, out=tmp_path / "plain", **{**settings, "sam": 0.0})
    assert any(not torch.equal(each, theirs[name]) for name, each in last_state(plain.folder)["model"].items())
