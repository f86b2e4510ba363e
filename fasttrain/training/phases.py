"""The phases of a run. With `--head-epochs` the classifier trains alone first (LP-FT, Kumar et al. 2022).

`training.setup` builds the parts of the phase that a run begins or resumes in, and `train_everything` replaces them
when the first phase ends. A checkpoint records its phase. The phase changes before the first step of the next epoch,
so a run that resumes at that point changes it again in the same way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fasttrain.augment.augmentation import make_augmentation
from fasttrain.checkpoint.packing import snapshot
from fasttrain.config.model_name import is_own
from fasttrain.config.schema import HEAD_NEEDS_PIXELS, TrainConfig
from fasttrain.model.compiled import compile_in_place
from fasttrain.model.freeze import freeze_all_but_classifier, freeze_blocks, freeze_body, freeze_statistics
from fasttrain.ranks import Ranks
from fasttrain.text import counted
from fasttrain.training.linear_probe import classifier_alone_follows
from fasttrain.training.optim import Schedule, create_optimizer
from fasttrain.training.progressive import side_of_epoch
from fasttrain.training.seeds import seed_everything, seed_rank
from fasttrain.training.state import FULL, HEAD, REFIT

if TYPE_CHECKING:
    from fasttrain.training.parts import RunParts


def phase_of(config: TrainConfig, checkpoint: dict[str, Any] | None) -> str:
    """Return the phase in which `checkpoint` was saved, or if it is None, the phase in which a new run begins.

    A phase is "head" (only the classifier trains), "full" (everything not frozen trains) or "refit" (everything trains
    again, on train and val).
    """
    if checkpoint is not None:
        return str(checkpoint.get("phase", FULL))
    return HEAD if config.head_epochs else FULL


def freeze_for_good(model: torch.nn.Module, config: TrainConfig) -> list[torch.nn.Module]:
    """Freeze what never trains: the first `freeze` blocks, or with `linear_probe` everything but the classifier.

    Returns the modules that must stay in eval mode. With `freeze_bn` they include the BatchNorm layers.
    """
    frozen = freeze_body(model) if config.linear_probe else freeze_blocks(model, config.freeze)
    return frozen + (freeze_statistics(model) if config.freezes_statistics else [])


def freeze_for(model: torch.nn.Module, phase: str) -> tuple[list[torch.nn.Parameter], list[torch.nn.Module]]:
    """Freeze what does not train in `phase` ("head", "full" or "refit"), in addition to what is frozen already.

    Returns the parameters that train again in the next phase, and the modules that stay in eval mode until then.
    """
    return freeze_all_but_classifier(model) if phase == HEAD else ([], [])


def make_optimizer(
    config: TrainConfig, model: torch.nn.Module, phase: str, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, Schedule]:
    """Return the optimizer and the learning-rate schedule of `phase`.

    While the head trains alone, its rate is constant. The schedule in the settings begins with the next phase. A refit
    repeats that schedule, except for plateau, which needs validation: the refit's schedule is then constant, and the
    caller sets the rate of each epoch to the one in the history.
    """
    head = phase == HEAD
    kind = "constant" if head or (phase == REFIT and config.scheduler == "plateau") else config.scheduler
    optimizer = create_optimizer(
        model,
        config.optimizer,
        config.learning_rate,
        config.weight_decay,
        config.momentum,
        None if head else config.layer_decay,
    )
    schedule = Schedule(
        optimizer,
        kind,
        learning_rate=config.learning_rate,
        epochs=config.head_epochs if head else config.epochs - config.head_epochs,
        steps_per_epoch=steps_per_epoch,
        patience=config.patience,
        factor=config.factor,
        warmup_epochs=config.warmup_epochs,
        greater_is_better=config.monitored.greater_is_better,
    )
    return optimizer, schedule


def needs_pixels(config: TrainConfig, model: torch.nn.Module, ranks: Ranks) -> str:
    """Return why the head can't train on cached features, or "" if it can.

    Settings that change pixels, such as augmentation, are a reason only without `minutes`. Under `minutes` the head
    trains without augmentation, because there is only time for features.
    """
    if changed := config.changed(HEAD_NEEDS_PIXELS if config.minutes is None else ("on_bad_sample",)):
        return f"{changed[0]} = {config.plain()[changed[0]]!r} needs pixels"
    if ranks.size > 1:
        return f"features need a single process, not {ranks.size} ranks"
    if is_own(config.model):
        return f"{config.model} is not one of timm's models, whose features are known"
    if not classifier_alone_follows(model, config.image_size):
        return f"{config.model} has more layers than a linear classifier after its features"
    return ""


def describe_head(config: TrainConfig, phase: str, pixels_reason: str) -> str:
    """Return a line to print if `phase` is the one in which the head trains alone, otherwise "".

    `pixels_reason`: why the head trains on photographs, or "" if it trains on cached features.
    """
    if phase != HEAD:
        return ""
    how = f"on photographs, because {pixels_reason}" if pixels_reason else "on cached features"
    return f"phases: {counted(config.head_epochs, 'epoch')} of the classifier alone, {how}; then everything"


def train_everything(parts: RunParts) -> None:
    """End the head's phase: from now on everything trains that the settings don't freeze.

    Training continues from the classifier of the best epoch. Optimizer, schedule and EMA begin anew.
    """
    state, config, ranks, model = parts.state, parts.config, parts.ranks, parts.model
    parts.leave_features()
    if state.early_stopping.best_epoch >= 0:
        if state.best is not None:  # on rank 0
            model.load_state_dict(state.best)
        ranks.share(model.state_dict().values())
    for each in parts.waiting:
        each.requires_grad_(True)
    parts.waiting = []
    state.optimizer, state.schedule = make_optimizer(config, model, FULL, parts.steps_an_epoch)
    state.begin_phase(FULL)
    parts.step = replace(parts.step, frozen=parts.frozen, parallel=ranks.parallel(model))
    parts.compiled = compile_in_place(
        model,
        parts.device,
        config.compile,
        config.compile_mode,
        config.deterministic,
        batch_size=parts.full_batch,
        warn=parts.warn,
    )


def keep_initial(parts: RunParts) -> None:
    """If `refit` is set, keep a copy of the weights that the run begins with, on rank 0's host."""
    if parts.config.refit and parts.ranks.main:
        parts.state.initial = snapshot(parts.model.state_dict())


def begin_refit(parts: RunParts) -> str:
    """Start the refit: train on train and val together, from the run's first weights. Return a line to print."""
    state, config, ranks, model = parts.state, parts.config, parts.ranks, parts.model
    parts.loaders.train.close()
    parts.loaders = replace(parts.loaders, train=parts.make_refit())
    state.loader = parts.loaders.train
    if state.initial is not None:  # on rank 0
        model.load_state_dict(state.initial)
    ranks.share(model.state_dict().values())
    seed_everything(config.seed, config.deterministic)
    seed_rank(ranks.rank)
    state.optimizer, state.schedule = make_optimizer(config, model, REFIT, parts.steps_an_epoch)
    state.begin_phase(REFIT)
    augmentation = make_augmentation(
        config,
        state.loader.ids,
        seed=config.seed,
        classes=len(parts.spec.classes),
        mean=parts.spec.mean,
        device=parts.device,
    )
    parts.step = replace(parts.step, augmentation=augmentation)
    epochs, photographs = counted(parts.refit_epochs, "epoch"), counted(len(state.loader.ids), "photograph")
    return f"refit: {epochs} on train and val together, {photographs}"


def prepare_epoch(parts: RunParts) -> None:
    """Set the loader's epoch and image size for the epoch that begins.

    In a refit under `scheduler` plateau, also set the learning rate that the same epoch had before the refit.
    """
    state, config = parts.state, parts.config
    state.loader.set_epoch(state.epoch)
    if config.progressive:
        state.loader.set_image_size(side_of_epoch(config, parts.scheduled_epoch))
    if state.phase == REFIT and config.scheduler == "plateau":
        state.schedule.set_rate(state.history[parts.scheduled_epoch]["learning_rate"])
