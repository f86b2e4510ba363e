"""`RunParts`: everything a run trains with. `training.setup` builds it; `train`, `profile` and `lr_find` use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from fasttrain.config.no_effect import without_effect
from fasttrain.config.schema import TrainConfig
from fasttrain.loaders.base import Loader
from fasttrain.model.factory import ModelSpec
from fasttrain.model.fold import fold_frozen
from fasttrain.model.precision import Precision
from fasttrain.ranks import Ranks
from fasttrain.shards.reader import ShardSet
from fasttrain.text import counted
from fasttrain.training.data import Loaders, absent_classes, photographs_of
from fasttrain.training.linear_probe import Watched, l2_strength, most_for_head, to_features
from fasttrain.training.resume import RunStart
from fasttrain.training.state import HEAD, REFIT, TrainingState
from fasttrain.training.step import Step


@dataclass
class RunParts:
    """The parts of one run: data, model, training state, and the settings that they were built from.

    `config`: the settings; `batch_size` in it is a number, never "auto". `step`: the training step. `on_features`:
    whether the classifier trains on cached features instead of photographs. `frozen`: the modules that never train.
    `waiting`: the parameters that don't train while the classifier trains alone, but afterwards. `make_refit`: builds
    the loader of train and val together. `notes`: lines to print about choices made for the user. `warn`: shows a line
    on rank 0's console and logs it. `warm`: the image side and the phase of each training graph compiled so far.
    """

    start: RunStart
    config: TrainConfig
    ranks: Ranks
    device: torch.device
    shards: ShardSet
    loader_name: str
    loaders: Loaders
    model: torch.nn.Module
    spec: ModelSpec
    precision: Precision
    state: TrainingState
    step: Step
    compiled: bool
    warn: Callable[[str], None]
    on_features: bool
    frozen: list[torch.nn.Module]
    waiting: list[torch.nn.Parameter]
    make_refit: Callable[[], Loader]
    notes: tuple[str, ...] = ()
    warm: set[tuple[int, str]] = field(default_factory=set)
    _pictures: tuple[Loaders, Step] | None = None

    @property
    def batch_size(self) -> int:
        """Return the number of samples in one rank's batch."""
        return int(self.config.batch_size)

    @property
    def steps_an_epoch(self) -> int:
        """Return the number of optimizer steps in an epoch of the training loader."""
        return -(-len(self.loaders.train) // self.config.grad_accumulation)

    @property
    def full_batch(self) -> int:
        """Return the number of samples in a full batch of one rank. With few samples it is less than the batch size."""
        return min(self.batch_size, len(self.loaders.train.ids))

    @property
    def head_is_trained(self) -> bool:
        """Return whether the classifier has trained alone for all `head_epochs`, and the next phase has not begun."""
        return self.state.phase == HEAD and self.state.epoch >= self.config.head_epochs

    @property
    def refit_epochs(self) -> int:
        """Return for how many epochs a refit trains: as many as the run needed to reach its best epoch."""
        return self.state.early_stopping.best_epoch + 1

    @property
    def last_epoch(self) -> int:
        """Return the number, from 1, of the run's last epoch.

        Once a refit has begun, that is the refit's last epoch, counted on from the epochs before.
        """
        refit = self.state.phase == REFIT
        return self.state.phase_epoch + self.refit_epochs if refit else self.config.epochs

    @property
    def scheduled_epoch(self) -> int:
        """Return the epoch, from 0, whose learning rate and image size apply now. A refit counts from 0 again."""
        return self.state.epoch - (self.state.phase_epoch if self.state.phase == REFIT else 0)

    @property
    def is_trained(self) -> bool:
        """Return whether training has ended: by early stopping, or because the last epoch is over.

        Before a refit this means that the search for the best epoch has ended, and then that the refit has ended.
        """
        stopped = self.state.phase != REFIT and self.state.early_stopping.should_stop
        return stopped or self.state.epoch >= self.last_epoch

    @property
    def l2(self) -> float:
        """Return the current epoch's L2 penalty, for a classifier that trains on features.

        It is the first one that no earlier epoch has tried: a resumed run may have another number of epochs, or have
        begun with an older version, which tried the penalties in another order.
        """
        epochs, samples = self.config.head_epochs or self.config.epochs, len(self.state.loader.ids)
        tried = [record["l2"] for record in self.state.history if "l2" in record]
        penalties = [l2_strength(epoch, epochs, samples) for epoch in range(epochs)]
        untried = [each for each in penalties if not any(math.isclose(each, other, rel_tol=1e-6) for other in tried)]
        return untried[0] if untried else penalties[self.state.epoch]

    def freeze(self, modules: list[torch.nn.Module]) -> None:
        """Keep `modules` in eval mode from now on. Call `fold_frozen` afterwards, so that they cost less."""
        self.frozen = [*self.frozen, *modules]
        self.step = replace(self.step, frozen=[*self.step.frozen, *modules])

    def fold_frozen(self) -> None:
        """Fold frozen BatchNorm layers into their convolutions. Call this after the weights have been loaded.

        Does nothing for a compiled model, because the compiler does the same.
        """
        if not self.compiled:  # the compiler does it itself
            fold_frozen(self.model, self.frozen)

    def enter_features(self, watched: Watched, say: Callable[[str], None]) -> None:
        """Make the classifier train on cached features. Call this after the weights have been loaded.

        The arguments are those of `to_features`, which computes features that are not cached.
        """
        step, probe = self.step, self.config.linear_probe
        self._pictures = self.loaders, step
        self.loaders = to_features(
            self.state,
            self.loaders if probe else replace(self.loaders, test=None),  # the head's phase ends before the test
            self.spec,
            preprocess=step.preprocess,
            autocast=step.autocast,
            device=step.device,
            watched=watched,
            say=say,
            setting="linear_probe" if probe else "head_epochs",
            most=most_for_head(self.config),
        )
        self.step = replace(step, preprocess=torch.nn.Identity())

    def leave_features(self) -> None:
        """Switch the model back to photographs, if it trained on features."""
        self.on_features = False
        if self._pictures is not None:
            del self.model.forward
            self.loaders, self.step = self._pictures
            self.state.loader, self._pictures = self.loaders.train, None

    def describe(self, console: Console) -> None:
        """Print a line about each part, and about each setting that has no effect in this run."""
        for line in self._lines():
            console.print(line, soft_wrap=True)

    def _lines(self) -> Iterator[str | Text]:
        config, size = self.config, self.ranks.size
        yield f"data: {self._data()}"
        if left_out := self.shards.left_out():
            yield left_out
        for line in absent_classes(self.shards):
            yield Text.assemble(("classes: ", "yellow"), line)
        yield from self.notes
        frozen = f", the first {counted(config.freeze, 'block')} frozen" if config.freeze else ""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        yield f"model: {config.model}, {count:,} trainable parameters{frozen}, on {self.device}"
        if size > 1:
            batch = self.batch_size
            yield f"ranks: {size} ({self.ranks.backend(self.device)}), {size} x {batch} = {size * batch} images a step"
        if (teacher := self.step.teacher) is not None:
            yield f"teacher: {teacher.name}, {teacher.weight:.0%} of the loss, at temperature {teacher.temperature:g}"
        for cause, line in without_effect(config):
            yield Text.assemble((f"{cause}: ", "yellow"), line)
        if config.sampling == "balanced" and config.class_weights == "balanced":
            line = "and sampling = balanced correct the same imbalance, so rare classes count twice; use only one"
            yield Text.assemble(("class_weights: ", "yellow"), line)
        if config.sync_bn and (size == 1 or self.device.type != "cuda"):
            line = f"ignored: it needs several ranks on CUDA, not {size} on {self.device}"
            yield Text.assemble(("sync_bn: ", "yellow"), line)
        if self.compiled:
            yield f"compile: torch.compile, mode {config.compile_mode}, before the first step"
        if self.precision.unavailable:
            yield Text.assemble(("amp: ", "yellow"), self.precision.unavailable)

    def _data(self) -> str:
        """Return where the photographs are, and how many each split has."""
        shards, given = self.shards, str(self.config.data)
        through = "" if shards.folder == Path(given) else f", through {shards.folder}"
        return f"{given}{through}: {photographs_of(shards)}"
