"""Run the training step of a real run, so that a check can watch or change what happens around each step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fasttrain.config.load import resolve
from fasttrain.model.freeze import keep_frozen
from fasttrain.ranks import Ranks, StepAgreement
from fasttrain.training.finite import LOOK_EVERY
from fasttrain.training.loop import train_epoch
from fasttrain.training.parts import RunParts
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from fasttrain.training.step import StepBatch
from tools.gpu_check.registry import Setting

Around = Callable[[], AbstractContextManager[Any]]

_ENDLESS = 100_000
"""Epochs: the learning rate's schedule must not end while steps are counted."""


def settings_of(setting: Setting, **changes: Any) -> dict[str, Any]:
    """Return the settings of a run that trains from random weights on the shards of `setting`, updated with `changes`.

    On a CPU, in a rehearsal, model, images and batches are small.
    """
    size = {"model": "mobilenetv2_100", "image_size": 224, "batch_size": 64, "workers": 8}
    if not setting.cuda:
        size = {"model": "test_efficientnet", "image_size": 48, "batch_size": 16, "workers": 1}
    same = {"pretrained": False, "device": setting.device, "loader": "native", "compile": "off", "track": False}
    return {"data": setting.shards, "out": setting.folder / "runs", **size, **same, **changes}


@contextmanager
def made_parts(setting: Setting, **changes: Any) -> Iterator[RunParts]:
    """Yield the parts (model, loaders, …) of a run with `settings_of(setting, **changes)`, before its first step."""
    config = resolve({}, settings_of(setting, **{"epochs": _ENDLESS, **changes}))
    parts = make_parts(RunStart(config), Console(quiet=True), Ranks())
    try:
        parts.fold_frozen()
        yield parts
    finally:
        parts.loaders.close()
        if setting.cuda:
            torch.cuda.empty_cache()


def take_steps(parts: RunParts, count: int, *, around: Around = contextlib.nullcontext) -> list[float]:
    """Train for `count` steps, in the loop of a run and with the loader's batches. Return the loss of each batch.

    `around`: returns a context, which is entered for the steps of each epoch. Raises StepDiverged if a loss or a
    gradient is not finite.
    """
    state, step, done = parts.state, parts.step, 0
    losses: list[torch.Tensor] = []

    def agree(samples: int, weight: float) -> StepAgreement:
        return StepAgreement(samples, weight, None, ended=done == count)

    def after_step(agreed: StepAgreement) -> None:
        nonlocal done
        done += 1

    handle = step.criterion.register_forward_hook(lambda module, inputs, loss: losses.append(loss.detach().clone()))
    try:
        while done < count:
            state.loader.set_epoch(state.epoch)
            with around():
                train_epoch(state, step, agree=agree, after_step=after_step, show=lambda *told: None)
            state.epoch += 1
        return [float(each) for each in losses]
    finally:
        handle.remove()


class HeldStep:
    """The training step of `parts` on one batch of random pixels in the device's memory, without a loader."""

    def __init__(self, parts: RunParts) -> None:
        count, side = parts.batch_size, parts.config.image_size
        images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8).to(parts.device)
        labels = torch.arange(count) % len(parts.shards.classes)
        ids = torch.from_numpy(parts.loaders.train.ids)[torch.arange(count) % len(parts.loaders.train.ids)]
        self._parts, self._batches = parts, [StepBatch(images, labels, ids, 0, count)]
        self._since_look = 0
        parts.state.model.train()
        keep_frozen(parts.step.frozen)

    def __call__(self) -> None:
        """Take one step. As often as a run does, wait for the device and check that the losses are finite."""
        parts = self._parts
        parts.step(parts.state, self._batches, StepAgreement(*parts.step.size(self._batches), None))
        self._since_look += 1
        if self._since_look == LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Wait for the device and check that the losses are finite, so that the next steps needn't."""
        self._since_look = 0
        self._parts.state.require_finite()


class _Enough(Exception):
    """Raised to end a run before its report."""


def records(setting: Setting, epochs: int, **changes: Any) -> list[dict[str, Any]]:
    """Train for `epochs` epochs as `fasttrain.train` does, without a report. Return the records of the epochs."""
    from fasttrain import train

    found: list[dict[str, Any]] = []

    def after_epoch(record: Any) -> None:
        found.append(dict(record))
        if len(found) == epochs:
            raise _Enough

    with contextlib.suppress(_Enough):
        train(**settings_of(setting, epochs=epochs, early_stopping=0, **changes), after_epoch=after_epoch)
    return found


def only_run(folder: Path) -> Path:
    """Return the folder of the only run in `folder`."""
    (run,) = (each for each in folder.iterdir() if each.is_dir())
    return run
