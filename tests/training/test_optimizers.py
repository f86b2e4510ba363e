"""Each of timm's optimizers with each schedule: trained, saved and resumed bit for bit, or refused by name at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import list_optimizers
from timm.optim._optim_factory import OptimInfo, default_registry

from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.packing import snapshot
from fasttrain.config.load import resolve
from fasttrain.errors import UserError
from fasttrain.terminal import make_console
from fasttrain.training.distributed import Agreed, Ranks
from fasttrain.training.loop import train_epoch
from fasttrain.training.optim import create_optimizer
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import RunParts

REFUSED = {
    "adahessian": "needs second derivatives",
    **{name: "is apex's, and apex is not installed" for name in list_optimizers("fused*")},
    **{name: "is bitsandbytes's, and bitsandbytes is not installed" for name in list_optimizers("bnb*")},
}
"""Those of timm's that can't train here, and why."""

SCHEDULERS = ("onecycle", "cosine", "plateau")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    warnings.filterwarnings("ignore", "It is highly recommended to have 'opt_einsum'")


def begin(data: Path, **settings: Any) -> RunParts:
    small = {"model": "test_convnext", "pretrained": False, "image_size": 32, "batch_size": 4, "limit_batches": 2}
    machine = {"loader": "torchvision", "workers": 0, "device": "cpu", "track": False, "epochs": 3}
    return RunParts(RunStart(resolve({"data": data, **small, **machine, **settings})), make_console(quiet=True), Ranks())


def one_epoch(parts: RunParts) -> None:
    state = parts.state
    state.loader.set_epoch(state.epoch)
    train_epoch(
        state,
        parts.step,
        agree=lambda samples=0, weight=0.0: Agreed(samples, 1.0, None),
        after_step=lambda part: None,
        show=lambda *_: None,
    )
    state.schedule.after_epoch(1.0)
    state.epoch += 1
    state.loader.set_epoch(state.epoch)


def trained_and_resumed(data: Path, path: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state after two epochs, in one go, and with a stop, a file, and new objects in between."""
    whole = begin(data, **settings)
    one_epoch(whole)
    save_checkpoint(path, snapshot(whole.state.state_dict(Ranks())))
    one_epoch(whole)
    resumed = begin(data, **settings)
    resumed.state.load_state_dict(load_checkpoint(path), Ranks())
    one_epoch(resumed)
    return whole.state.state_dict(Ranks()), resumed.state.state_dict(Ranks())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("number", range(len(list_optimizers())))
def test_every_optimizer(number: int, shard_folder: Path, tmp_path: Path) -> None:
    name = list_optimizers()[number]
    if name in REFUSED:
        with pytest.raises(UserError, match=f"optimizer = '{name}' {REFUSED[name]}") as error:
            begin(shard_folder, optimizer=name)
        assert "\n" not in str(error.value)
        return
    settings = {"optimizer": name, "scheduler": SCHEDULERS[number % 3], "layer_decay": 0.7 if number % 2 else None}
    whole, resumed = trained_and_resumed(shard_folder, tmp_path / "c.safetensors", **settings)
    for part in ("model", "optimizer", "schedule"):
        assert same(whole[part], resumed[part]), f"{part} of {settings}"
