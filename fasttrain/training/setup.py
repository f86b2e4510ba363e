"""What a run needs before its first step: device, data, model, optimizer, each made in order; no run folder yet."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from timm.utils import ModelEmaV3

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.checkpoint.initial_weights import load_initial_weights
from fasttrain.config.schema import ignored_by_linear_probe
from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import choose_loader
from fasttrain.model.depthwise import keep_slow_depthwise_in_fp32
from fasttrain.model.factory import ModelSpec, create_model, enable_grad_checkpointing, model_spec
from fasttrain.model.fold import fold_frozen
from fasttrain.model.freeze import freeze_blocks, freeze_body
from fasttrain.model.input_size import img_size_for
from fasttrain.model.preprocess import Normalise
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.reader import ShardSet
from fasttrain.terminal import make_console
from fasttrain.training.batch_size import with_fitting_batch
from fasttrain.training.data import absent_classes, balanced_weights, make_loaders, photographs_of
from fasttrain.training.device import (
    amp_problem,
    choose_device,
    compile_in_place,
    fast_math,
    keep_freed_memory,
    mixed_precision,
)
from fasttrain.training.distributed import Ranks
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.image_size import with_fitting_sizes
from fasttrain.training.loop import Step
from fasttrain.training.optim import Schedule, create_optimizer
from fasttrain.training.resume import RunStart
from fasttrain.training.seeds import seed_everything, seed_rank
from fasttrain.training.state import Totals, TrainingState

log = logging.getLogger("fasttrain")


class RunParts:
    """The parts of one run, and the word about them that the user gets. `train` and `profile` drive them."""

    def __init__(self, start: RunStart, console: Console, ranks: Ranks) -> None:
        self.why_batch = ""
        config, self.why_sizes = with_fitting_sizes(start.config)
        start = replace(start, config=config)
        if start.config.batch_size == "auto":
            quiet = make_console(quiet=True)
            start, self.why_batch = with_fitting_batch(start, lambda trial: RunParts(trial, quiet, ranks))
        self.config = config = start.config
        self.batch_size = int(config.batch_size)
        self.start, self.console, self.ranks = start, console, ranks
        seed_everything(config.seed, config.deterministic)
        fast_math(config.deterministic)
        self.device = ranks.device(choose_device(config.device))
        keep_freed_memory(self.device)
        if config.linear_probe and ranks.size > 1:
            raise UserError(f"linear_probe trains one layer, too little for {ranks.size} ranks: start one process")
        self.shards = ranks.in_turn(lambda: ShardSet.open(ensure_shards(config.data), config.cache_size))
        self._check_same_data()
        kind, self.why_loader = choose_loader(config.loader, self.shards, str(self.device))
        self.loader_name = kind.name
        self.model, self.spec = self._make_model()
        self.loaders = make_loaders(self.shards, kind, self._loader_settings())
        self.state, self.step = self._make_state()
        seed_rank(ranks.rank)

    def fold_frozen(self) -> None:
        """Has frozen BatchNorm cost nothing; call it when the weights have been loaded."""
        if not self.compiled:  # the compiler does it itself
            fold_frozen(self.model, self.step.frozen)

    def _make_model(self) -> tuple[torch.nn.Module, ModelSpec]:
        config, classes = self.config, self.shards.classes
        resumed = self.start.checkpoint is not None
        img_size = img_size_for(config.model, config.image_size)
        model = create_model(
            config.model,
            len(classes),
            pretrained=config.pretrained and not resumed and config.weights is None,
            drop_rate=config.drop_rate,
            img_size=img_size,
        )
        self.why_weights = ""
        if config.weights is not None and not resumed:
            self.why_weights = load_initial_weights(model, config.model, config.weights, classes)
        if config.grad_checkpointing:
            enable_grad_checkpointing(model)
        spec = model_spec(model, config.model, classes, config.image_size, img_size)
        if config.sync_bn and self.ranks.size > 1 and self.device.type == "cuda":
            model = self.ranks.sync_batch_norm(model)
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if config.channels_last else model, spec

    def _loader_settings(self) -> LoaderSettings:
        config = self.config
        return LoaderSettings(
            batch_size=self.batch_size,
            image_size=config.image_size,
            crop=Crop(scale=config.crop_scale),
            seed=config.seed,
            workers=self.ranks.workers(config.workers),
            device=str(self.device),
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            limit_batches=config.limit_batches,
            shuffle=config.shuffle,
            on_bad_sample=config.on_bad_sample,
            report=self._warn,
        )

    def _warn(self, line: str) -> None:
        log.warning("%s", line)
        if self.ranks.main:
            self.console.print(line, style="yellow", soft_wrap=True)
        else:
            print(f"rank {self.ranks.rank}: {line}", file=sys.stderr)

    def _make_state(self) -> tuple[TrainingState, Step]:
        config = self.config
        frozen = freeze_body(self.model) if config.linear_probe else freeze_blocks(self.model, config.freeze)
        optimizer = create_optimizer(
            self.model,
            config.optimizer,
            config.learning_rate,
            config.weight_decay,
            config.momentum,
            config.layer_decay,
        )
        schedule = Schedule(
            optimizer,
            config.scheduler,
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            steps_per_epoch=-(-len(self.loaders.train) // config.grad_accumulation),
            patience=config.patience,
            factor=config.factor,
            warmup_epochs=config.warmup_epochs,
        )
        self.no_amp = amp_problem(self.device, config.amp_dtype) if config.amp else None
        amp = config.amp and self.no_amp is None
        self.precision = config.amp_dtype if amp else "fp32"
        self.autocast, scaler = mixed_precision(self.device, amp, config.amp_dtype)
        if amp and self.device.type == "cpu":
            keep_slow_depthwise_in_fp32(self.model)
        self.preprocess: torch.nn.Module = Normalise(
            self.spec.mean, self.spec.std, channels_last=config.channels_last
        ).to(self.device)
        weight = balanced_weights(self.shards) if config.class_weights == "balanced" else None
        criterion = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=config.label_smoothing).to(self.device)
        state = TrainingState(
            model=self.model,
            ema=ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True)
            if config.ema_decay and not config.linear_probe
            else None,
            optimizer=optimizer,
            schedule=schedule,
            scaler=scaler,
            early_stopping=EarlyStopping(config.early_stopping),
            totals=Totals(self.device),
            loader=self.loaders.train,
            optimizer_kind=config.optimizer,
        )
        step = Step(
            self.device,
            self.preprocess,
            criterion,
            self.autocast,
            config.clip_grad,
            frozen,
            self._make_augment(),
            PlannedMixup(config.mixup, config.cutmix, len(self.shards.classes), config.seed)
            if config.mixup or config.cutmix
            else None,
            class_weights=weight,
            parallel=self.ranks.parallel(self.model),
            ranks=self.ranks.size,
            accumulate=config.grad_accumulation,
        )
        self.compiled = not config.linear_probe and compile_in_place(
            self.model, self.device, config.compile, config.compile_mode, config.deterministic
        )
        return state, step

    def _make_augment(self) -> BatchAugment | None:
        config = self.config
        if not (config.color_jitter or config.rand_augment or config.random_erasing):
            return None
        return BatchAugment(
            self.loaders.train.ids,
            config.seed,
            self.spec.mean,
            self.device,
            color_jitter=config.color_jitter,
            rand_augment=config.rand_augment,
            random_erasing=config.random_erasing,
        )

    def _check_same_data(self) -> None:
        checkpoint = self.start.checkpoint
        if len(set(self.ranks.gather(self.shards.fingerprint))) > 1:
            raise UserError(f"{self.config.data} is not the same on all machines: copy one's shards to the others")
        if checkpoint and checkpoint["shards"] != self.shards.fingerprint:
            raise UserError(
                f"{self.shards.location} is not the data that {self.start.folder} began with; give --data that, or "
                "leave --resume out"
            )

    def _data(self) -> str:
        """Where the photographs are, and how many there are of each split."""
        shards, given = self.shards, str(self.config.data)
        through = "" if shards.folder == Path(given) else f", through {shards.folder}"
        return f"{given}{through}: {photographs_of(shards)}"

    def say_parts(self) -> None:
        """A line for each part, and for each setting that this machine can't follow."""
        says = self.console.print
        says(f"data: {self._data()}")
        if left_out := self.shards.left_out():
            says(left_out)
        for line in absent_classes(self.shards):
            says(Text.assemble(("classes: ", "yellow"), line))
        says(f"loader: {self.why_loader}")
        for line in (*self.why_sizes, self.why_weights, self.why_batch):
            if line:
                says(line, soft_wrap=True)
        frozen = f", {self.config.freeze} blocks frozen" if self.config.freeze else ""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        says(f"model: {self.config.model}, {count:,} trainable parameters{frozen}, on {self.device}")
        if (size := self.ranks.size) > 1:
            batch = self.batch_size
            says(f"ranks: {size} ({self.ranks.backend(self.device)}), {size} x {batch} = {size * batch} images a step")
        if self.config.linear_probe and (ignored := ignored_by_linear_probe(self.config)):
            said = f"not used, as the head is solved for without gradient steps: {', '.join(ignored)}"
            says(Text.assemble(("linear_probe: ", "yellow"), said))
        if self.config.sync_bn and (size == 1 or self.device.type != "cuda"):
            said = f"ignored, as it needs several ranks on CUDA, not {size} on {self.device}"
            says(Text.assemble(("sync_bn: ", "yellow"), said))
        if self.compiled:
            says(f"compile: torch.compile, mode {self.config.compile_mode}; the first steps take longer")
        if self.no_amp:
            says(Text.assemble(("amp: ", "yellow"), self.no_amp))
