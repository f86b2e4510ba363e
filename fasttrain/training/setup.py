"""Build the parts of a run before its first step: device, data, model, optimizer, step. No run folder is made."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel

from fasttrain.augment.augmentation import make_augmentation
from fasttrain.checkpoint.initial_weights import load_initial_weights
from fasttrain.config.model_name import is_own
from fasttrain.config.monitor import MONITORS
from fasttrain.config.schema import TrainConfig
from fasttrain.data.crops import RandomResizedCrop, evaluation_crop
from fasttrain.device import fast_math, keep_freed_memory
from fasttrain.errors import UserError
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.extras import require
from fasttrain.model.activations import keep_inputs_of_activations
from fasttrain.model.compiled import compile_in_place
from fasttrain.model.factory import ModelSpec, create_model, enable_grad_checkpointing, model_spec
from fasttrain.model.hub import remember
from fasttrain.model.input_size import img_size_for
from fasttrain.model.own import require_logits, require_same_structure
from fasttrain.model.precision import Precision, choose_precision
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.ranks import Ranks
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.find import data_set_in
from fasttrain.shards.folds import FoldView
from fasttrain.shards.reader import ShardSet
from fasttrain.terminal import make_console
from fasttrain.training.batch_size import with_fitting_batch
from fasttrain.training.data import balanced_weights, make_loaders, make_refit_loader
from fasttrain.training.default_weights import with_default_weights
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.ema import Ema
from fasttrain.training.image_size import sides_of, with_fitting_sizes
from fasttrain.training.interpolation import with_known_interpolation
from fasttrain.training.loss import make_criterion
from fasttrain.training.optim import require_known_optimizer
from fasttrain.training.parts import RunParts
from fasttrain.training.phases import describe_head, freeze_for, freeze_for_good, make_optimizer, needs_pixels, phase_of
from fasttrain.training.resume import RunStart
from fasttrain.training.seeds import seed_everything, seed_rank
from fasttrain.training.soup import Candidates
from fasttrain.training.state import HEAD, REFIT, Totals, TrainingState
from fasttrain.training.step import Step
from fasttrain.training.teacher import Teacher, load_teacher, require_same_teacher

log = logging.getLogger("fasttrain")


def make_parts(start: RunStart, console: Console, ranks: Ranks) -> RunParts:
    """Build the parts of the run that `start` describes: device, data, model, optimizer and training step.

    Seeds every random generator, and prints problems of the data to `console`. Raises UserError if settings, data and
    checkpoint don't match.
    """
    if (described := (start.checkpoint or {}).get("hub")) is not None:
        remember(start.config.model, described)
    require_known_optimizer(start.config.optimizer)
    if start.config.explain:
        require("--explain", "explain", "captum")
    config, tag_notes = with_default_weights(start.config) if start.checkpoint is None else (start.config, [])
    config = config.model_copy(update={"data": data_set_in(config.data)})
    config, size_notes = with_fitting_sizes(config)
    config, interpolation_note = with_known_interpolation(config)
    start, batch_note = replace(start, config=config), ""
    if config.batch_size == "auto":
        quiet = make_console(quiet=True)
        start, batch_note = with_fitting_batch(start, lambda trial: make_parts(trial, quiet, ranks))
        config = start.config
    if config.linear_probe and ranks.size > 1:
        raise UserError(f"linear_probe trains one layer, too little for {ranks.size} ranks: start one process")
    seed_everything(config.seed, config.deterministic)
    fast_math(config.deterministic)
    device = ranks.device(config.device)
    keep_freed_memory(device)
    shards = ranks.in_turn(lambda: ShardSet.open(ensure_shards(config.data), config.cache_size))
    _check_same_data(start, shards, ranks)
    config = _with_monitor(config, shards)
    if config.fold is not None:
        shards = FoldView(shards, config.fold, config.seed)
    warn = _warning_on(console, ranks)
    evaluated = config.geometry
    crop = RandomResizedCrop(config.image_size, scale=config.crop_scale, interpolation=evaluated.interpolation)
    options: dict[str, Any] = {
        "hflip": config.hflip,
        "vflip": config.vflip,
        "shuffle": "shards" if config.shuffle == "shards" else True,
        "sampling": config.sampling,
        "batch_size": int(config.batch_size),
        "limit": config.limit_batches,
        "loader": config.loader,
        "workers": ranks.workers(config.workers),
        "device": device,
        "seed": config.seed,
        "on_bad_sample": config.on_bad_sample,
        "rank": ranks.rank,
        "world_size": ranks.size,
        "report": warn,
    }
    loaders = make_loaders(shards, crop, evaluation_crop(evaluated), **options)
    make_refit = functools.partial(make_refit_loader, shards, crop, **options)
    phase = phase_of(config, start.checkpoint)
    if config.refit and loaders.test is None:
        raise UserError(
            f"refit: {shards.location} has no test split, on which alone refitted weights can be evaluated; convert "
            "again with --test-fraction 0.1, or leave refit out"
        )
    if phase == REFIT:
        loaders.train.close()
        loaders = replace(loaders, train=make_refit())
    model, spec, weights_note = _make_model(start, shards.classes, device, ranks)
    spec = replace(spec, multi_label=shards.multi_label)
    frozen = freeze_for_good(model, config)
    if not is_own(config.model):  # custom code may rely on activations that overwrite their input
        keep_inputs_of_activations(model, frozen)
    waiting, frozen_until_then = freeze_for(model, phase)
    pixels_reason = needs_pixels(config, model, ranks) if phase == HEAD else ""
    optimizer, schedule = make_optimizer(config, model, phase, -(-len(loaders.train) // config.grad_accumulation))
    precision = choose_precision(model, device, config.amp, config.amp_dtype)
    teacher = ranks.in_turn(lambda: load_teacher(config, spec, precision.name, device))
    require_same_teacher(teacher, start.checkpoint, start.folder)
    use_ema = config.ema_decay is not None and not config.linear_probe
    state = TrainingState(
        model=model,
        ema=Ema(model, decay=config.ema_decay, use_warmup=True) if use_ema else None,
        optimizer=optimizer,
        schedule=schedule,
        scaler=precision.scaler,
        early_stopping=EarlyStopping(config.early_stopping, config.monitor),
        totals=Totals(device, multi_label=shards.multi_label),
        loader=loaders.train,
        optimizer_kind=config.optimizer,
        phase=phase,
        candidates=Candidates(0 if config.linear_probe else config.average, config.monitor),
    )
    step = make_step(
        config,
        precision,
        spec,
        device=device,
        ids=loaders.train.ids,
        frozen=[*frozen, *frozen_until_then],
        class_weights=balanced_weights(shards) if config.class_weights == "balanced" else None,
        teacher=teacher,
        parallel=ranks.parallel(model),
        ranks=ranks.size,
    )
    compiled = (
        not config.linear_probe
        and phase != HEAD
        and compile_in_place(
            model,
            device,
            config.compile,
            config.compile_mode,
            config.deterministic,
            batch_size=min(int(config.batch_size), len(loaders.train.ids)),
            warn=warn,
        )
    )
    seed_rank(ranks.rank)
    head_note = describe_head(config, phase, pixels_reason)
    lines = (
        f"loader: {loaders.train.why}",
        *size_notes,
        interpolation_note,
        *tag_notes,
        weights_note,
        batch_note,
        head_note,
    )
    notes = tuple(line for line in lines if line)
    return RunParts(
        start=start,
        config=config,
        ranks=ranks,
        device=device,
        shards=shards,
        loader_name=loaders.train.name,
        loaders=loaders,
        model=model,
        spec=spec,
        precision=precision,
        state=state,
        step=step,
        compiled=compiled,
        warn=warn,
        on_features=config.linear_probe or (phase == HEAD and not pixels_reason),
        frozen=frozen,
        waiting=waiting,
        make_refit=make_refit,
        notes=notes,
    )


def make_step(
    config: TrainConfig,
    precision: Precision,
    spec: ModelSpec,
    *,
    device: torch.device,
    ids: NDArray[np.int64],
    frozen: list[torch.nn.Module],
    class_weights: torch.Tensor | None,
    teacher: Teacher | None = None,
    parallel: DistributedDataParallel | None = None,
    ranks: int = 1,
) -> Step:
    """Return the training step for the settings `config` and the model that `spec` describes.

    `ids`: int64 [n], row numbers of the training photographs in the shards' index. `frozen`: modules that stay in eval
    mode. `class_weights`: float32 [classes], or None. `parallel`: the model that averages gradients over `ranks`
    processes, or None for a single one.
    """
    preprocess = NormalizePixels(spec.mean, spec.std, channels_last=config.channels_last).to(device)
    return Step(
        device,
        preprocess,
        make_criterion(config, class_weights, multi_label=spec.multi_label).to(device),
        precision.autocast,
        config.clip_grad,
        frozen,
        make_augmentation(config, ids, seed=config.seed, classes=len(spec.classes), mean=spec.mean, device=device),
        class_weights,
        teacher,
        parallel,
        ranks,
        config.grad_accumulation,
        config.sam,
    )


def _make_model(
    start: RunStart, classes: list[str], device: torch.device, ranks: Ranks
) -> tuple[torch.nn.Module, ModelSpec, str]:
    """Return the model on `device`, its spec, and a line about its initial weights."""
    config, resumed = start.config, start.checkpoint is not None
    img_size = img_size_for(config.model, config.image_size)
    model = create_model(
        start.model_source,
        len(classes),
        pretrained=config.pretrained and not resumed and config.weights is None,
        drop_rate=config.drop_rate,
        drop_path=config.drop_path,
        img_size=img_size,
    )
    if is_own(config.model):
        require_logits(model, config.model, len(classes), sides_of(config))
    if start.checkpoint is not None:
        require_same_structure(model, config.model, start.checkpoint["model"])
    weights_note = ""
    if config.weights is not None and not resumed:
        weights_note = load_initial_weights(model, config.model, config.weights, classes)
    if config.grad_checkpointing:
        enable_grad_checkpointing(model)
    spec = model_spec(model, config.model, classes, config.geometry, img_size)
    if config.sync_bn and ranks.size > 1 and device.type == "cuda":
        model = ranks.sync_batch_norm(model)
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model, spec, weights_note


def _warning_on(console: Console, ranks: Ranks) -> Callable[[str], None]:
    def warn(line: str) -> None:
        log.warning("%s", line)
        if ranks.main:
            console.print(line, style="yellow", soft_wrap=True)
        else:
            print(f"rank {ranks.rank}: {line}", file=sys.stderr)

    return warn


def _with_monitor(config: TrainConfig, shards: ShardSet) -> TrainConfig:
    """Replace monitor = "auto" by the metric for these labels. Raises UserError for a metric that they don't have."""
    kind = SetEvaluation if shards.multi_label else Evaluation
    if config.monitor == "auto":
        return config.model_copy(update={"monitor": "map" if shards.multi_label else "top1"})
    if not config.monitored.measured_by(kind):
        labels = "is multi-label" if shards.multi_label else "has one class per photograph"
        others = ", ".join(name for name, each in MONITORS.items() if each.measured_by(kind))
        raise UserError(f"monitor = {config.monitor}: {shards.location} {labels}; give --monitor one of {others}")
    return config


def _check_same_data(start: RunStart, shards: ShardSet, ranks: Ranks) -> None:
    if len(set(ranks.gather(shards.fingerprint))) > 1:
        raise UserError(f"{start.config.data} is not the same on all machines; copy the shards of one to the others")
    if start.checkpoint and shards.manifest.contains(start.checkpoint["shards"]):
        raise UserError(
            f"{shards.location} has grown since {start.folder} began; start a new run from its weights: "
            f"--weights {start.folder}/model.safetensors"
        )
    if start.checkpoint and start.checkpoint["shards"] != shards.fingerprint:
        raise UserError(
            f"{shards.location} is not the data that {start.folder} began with; give --data as then, or leave --resume "
            "out"
        )
