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
    """Return the phase in which a new run begins, or in which `checkpoint` was saved."""
    if checkpoint is not None:
        return str(checkpoint.get("phase", FULL))
    return HEAD if config.head_epochs else FULL


def freeze_for_good(model: torch.nn.Module, config: TrainConfig) -> list[torch.nn.Module]:
    """Freeze what does not train in any phase.

    Return the modules that must stay in eval mode, including BatchNorm for `freeze_bn`.
    """
    frozen = freeze_body(model) if config.linear_probe else freeze_blocks(model, config.freeze)
    return frozen + (freeze_statistics(model) if config.freezes_statistics else [])


def freeze_for(model: torch.nn.Module, phase: str) -> tuple[list[torch.nn.Parameter], list[torch.nn.Module]]:
    """Freeze what does not train in `phase`, in addition to what is frozen already.

    Return the parameters that train again in the next phase, and the modules that stay in eval mode until then.
    """
    return freeze_all_but_classifier(model) if phase == HEAD else ([], [])


def make_optimizer(
    config: TrainConfig, model: torch.nn.Module, phase: str, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, Schedule]:
    """Return the optimizer and the learning-rate schedule of `phase`.

    The head trains at a constant rate, and the run's schedule begins after it. A refit has the run's schedule too. If
    that is plateau, which needs validation, the refit's schedule is constant, and the caller sets each epoch's rate to
    the one in the history.
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

    Under `minutes` augmentation is left out, because the plan only has time for features.
    """
    if changed := config.changed(HEAD_NEEDS_PIXELS if config.minutes is None else ("on_bad_sample",)):
        return f"{changed[0]} = {config.plain()[changed[0]]!r} needs pixels"
    if ranks.size > 1:
        return f"features need a single process, not {ranks.size} ranks"
    if is_own(config.model) or not classifier_alone_follows(model, config.image_size):
        return f"{config.model} does not expose its features, or does more after them than a linear classifier"
    return ""


def describe_head(config: TrainConfig, phase: str, pixels_reason: str) -> str:
    """Return a line about the head's phase, or "" if there is none or it is over."""
    if phase != HEAD:
        return ""
    how = f"on photographs, because {pixels_reason}" if pixels_reason else "on cached features"
    return f"phases: {counted(config.head_epochs, 'epoch')} of the classifier alone, {how}; then everything"


def train_everything(parts: RunParts) -> None:
    """End the head's phase: from now on everything trains that the settings don't freeze.

    Training continues from the classifier of the best epoch. Optimizer, schedule and EMA start anew.
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
    """Keep a copy of the run's first weights if it will be refitted."""
    if parts.config.refit and parts.ranks.main:
        parts.state.initial = snapshot(parts.model.state_dict())


def begin_refit(parts: RunParts) -> str:
    """Start the refit: train on train and val together, from the run's first weights. Return a line about it."""
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
    """Set the loader's epoch and image size.

    A refit also takes the learning rate that plateau had found for the epoch.
    """
    state, config = parts.state, parts.config
    state.loader.set_epoch(state.epoch)
    if config.progressive:
        state.loader.set_image_size(side_of_epoch(config, parts.scheduled_epoch))
    if state.phase == REFIT and config.scheduler == "plateau":
        state.schedule.set_rate(state.history[parts.scheduled_epoch]["learning_rate"])
