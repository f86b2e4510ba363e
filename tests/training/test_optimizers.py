"""Each of timm's optimizers with each schedule: trained, saved and resumed bit for bit, or refused by name at once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import get_optimizer_class, list_optimizers
from timm.optim._optim_factory import OptimInfo, default_registry

from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.packing import pack, snapshot, unpack
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.ranks import Ranks, StepAgreement
from fasttrain.terminal import make_console
from fasttrain.training.loop import train_epoch
from fasttrain.training.optim import Schedule, create_optimizer
from fasttrain.training.parts import RunParts
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts

REFUSED = {
    "adahessian": "needs second derivatives",
    **dict.fromkeys(list_optimizers("fused*"), "needs the package apex, which is not installed"),
    **dict.fromkeys(list_optimizers("bnb*"), "needs the package bitsandbytes, which is not installed"),
}
"""The optimizers of timm that can't train here, and why."""

TRAINED = [name for name in list_optimizers() if name not in REFUSED]
ONE_OF_EACH_KIND = list({get_optimizer_class(name, bind_defaults=False): name for name in TRAINED}.values())
SCHEDULERS = ("onecycle", "cosine", "plateau")

pytestmark = pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


class Small:
    """A model of three layers, its optimizer and its schedule; its gradients are numbers that depend on the step."""

    def __init__(self, name: str, scheduler: str, **settings: float | None) -> None:
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5)
        self.model = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)
        given = {"learning_rate": 1e-3, "weight_decay": 1e-2, "momentum": 0.9, **settings}
        self.optimizer = create_optimizer(self.model, name, **given)
        plan = {"epochs": 3, "steps_per_epoch": 4, "patience": 0, "factor": 0.5, "warmup_epochs": 1}
        self.schedule = Schedule(self.optimizer, scheduler, learning_rate=1e-3, **plan)

    def epoch(self, number: int) -> None:
        for step in range(4):
            generator = torch.Generator().manual_seed(4 * number + step)
            for each in self.model.parameters():
                each.grad = (
                    torch.randn(each.shape, generator=generator)
                    .to(each)
                    .contiguous(memory_format=torch.channels_last if each.ndim == 4 else torch.contiguous_format)
                )
            self.optimizer.step()
            self.schedule.after_step()
        self.schedule.after_epoch(1.0)

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return snapshot({name: part.state_dict() for name, part in parts.items()})


def resumed(state: dict[str, Any], name: str, scheduler: str, **settings: float | None) -> Small:
    again = Small(name, scheduler, **settings)
    for part, values in unpack(*pack(state)).items():
        getattr(again, part).load_state_dict(values)
    return again


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.slow
def test_every_optimizer_goes_on_bit_for_bit(scheduler: str) -> None:
    for before, name in itertools.product(("", "lookahead_"), TRAINED):
        decay = 0.7 if scheduler == "cosine" else None
        whole = Small(before + name, scheduler, layer_decay=decay)
        start = whole.state()["model"]
        whole.epoch(0)
        stopped = whole.state()
        whole.epoch(1)
        again = resumed(stopped, before + name, scheduler, layer_decay=decay)
        again.epoch(1)
        assert same(whole.state(), again.state()), f"{before}{name}"
        changed = [key for key, value in whole.state()["model"].items() if not torch.equal(value, start[key])]
        assert changed == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"], f"{before}{name}"
        assert all(each.isfinite().all() for each in whole.model.parameters()), f"{before}{name}"


def begin(data: Path, **settings: Any) -> RunParts:
    small = {"model": "test_convnext", "pretrained": False, "image_size": 32, "batch_size": 4, "limit_batches": 2}
    machine = {"loader": "torchvision", "workers": 0, "device": "cpu", "track": False, "epochs": 3}
    return make_parts(
        RunStart(resolve({"data": data, **small, **machine, **settings})), make_console(quiet=True), Ranks()
    )


def one_epoch(parts: RunParts) -> None:
    state = parts.state
    state.loader.set_epoch(state.epoch)
    train_epoch(
        state,
        parts.step,
        agree=lambda samples, weight: StepAgreement(samples, weight, None),
        after_step=lambda part: None,
        show=lambda *_: None,
    )
    state.schedule.after_epoch(1.0)
    state.epoch += 1
    state.loader.set_epoch(state.epoch)


# Without opt_einsum, which is no dependency, a step of Kron on a real model takes minutes.
@pytest.mark.parametrize(
    "name", [*(each for each in ONE_OF_EACH_KIND if "kron" not in each), "lookahead_adam", "lookahead_muon"]
)
@pytest.mark.slow
def test_every_kind_in_a_run(name: str, shard_folder: Path, tmp_path: Path) -> None:
    """An epoch on photographs with each class of optimizer, a checkpoint, and another epoch in new objects."""
    settings = {"optimizer": name, "scheduler": "onecycle", "ema_decay": 0.9}
    whole = begin(shard_folder, **settings)
    one_epoch(whole)
    save_checkpoint(tmp_path / "c.safetensors", snapshot(whole.state.state_dict(Ranks())))
    one_epoch(whole)
    again = begin(shard_folder, **settings)
    again.state.load_state_dict(load_checkpoint(tmp_path / "c.safetensors"), Ranks())
    one_epoch(again)
    expected, found = whole.state.state_dict(Ranks()), again.state.state_dict(Ranks())
    for part in ("model", "optimizer", "schedule", "ema"):
        assert same(expected[part], found[part]), part


@pytest.mark.parametrize("name", [*REFUSED, "lookahead_adahessian"])
def test_what_cannot_train_here_is_refused_before_there_is_a_run(name: str, shard_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        begin(shard_folder, optimizer=name, out=tmp_path / "runs")
    assert str(error.value).startswith(f"optimizer = '{name}' {REFUSED[name.removeprefix('lookahead_')]}")
    assert str(error.value).endswith("use another optimizer, such as adamw") and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["adamm", "lookahead_adamm", "lookahead", "lookahead_", "lookahead_lookahead_adam"])
def test_names_that_timm_does_not_know(name: str) -> None:
    with pytest.raises(UserError, match=f"optimizer = '{name}' is not known to timm"):
        Small(name, "constant")


class Strange(torch.optim.SGD):
    """An optimizer that somebody registered with timm."""


class WithClosure(Strange):
    def step(self, closure: Any) -> Any:
        return super().step(closure)


class WithModes(Strange):
    def train(self) -> None: ...

    def eval(self) -> None: ...


class WithASet(Strange):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "names": {"a"}}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (WithClosure, "fails when tried (TypeError: "),
        (WithModes, "must be switched to evaluation mode for validation"),
        (WithASet, "fails when tried (InternalError: a checkpoint can't hold a set"),
    ],
)
def test_any_other_optimizer_is_tried_out_first(kind: type, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(default_registry._optimizers, "strange", OptimInfo("strange", kind, has_eps=False))
    with pytest.raises(UserError) as error:
        Small("strange", "constant")
    assert f"optimizer = 'strange' {said}" in str(error.value)


def test_no_momentum_needs_no_other_name() -> None:
    for name in ("sgd", "nlars", "rmsprop", "momentum"):
        for scheduler in SCHEDULERS:
            made = Small(name, scheduler, momentum=0.0)
            made.epoch(0)
            assert all(each.isfinite().all() for each in made.model.parameters())


def test_trying_out_draws_no_random_number() -> None:
    model = torch.nn.Linear(4, 5)
    for name in ("adam", "kron", "lookahead_lamb"):
        before = torch.get_rng_state()
        create_optimizer(model, name, 1e-3, 0.0, 0.9)
        assert torch.equal(torch.get_rng_state(), before)


def test_ranks_with_other_random_numbers_make_the_same_steps() -> None:
    states = []
    for seed in (1, 2):
        made = Small("kron", "constant")
        torch.manual_seed(seed)
        made.epoch(0)
        states.append(made.state())
    assert same(*states)
