"""Measure how fast this machine trains and evaluates, and plan a run under `--minutes` from it."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from fasttrain.config.model_name import is_own
from fasttrain.config.schema import NEEDS_PIXELS, TrainConfig
from fasttrain.config.values import usual_warmup
from fasttrain.device import copy_to, release_memory, synchronize
from fasttrain.errors import UserError
from fasttrain.model.batch_norm import trained_norms
from fasttrain.model.freeze import early_blocks, freeze_blocks, freeze_statistics, keep_frozen
from fasttrain.model.input_size import img_size_for, takes
from fasttrain.training.linear_probe import most_for_head
from fasttrain.training.loop import step_batches
from fasttrain.training.parts import RunParts
from fasttrain.training.phases import needs_pixels
from fasttrain.training.resume import RunStart
from fasttrain.training.soup import STATISTICS_BATCHES
from fasttrain.training.teacher import Teacher
from fasttrain.training.time_plan import Rates, TimePlan, Work, make_time_plan, matching_share, sides_to_try

_TRIAL = {"pretrained": False, "weights": None, "compile": "off", "minutes": None, "head_epochs": 0}
_WARM_UP, _TIMED = {"cpu": 2}, {"cpu": 2}  # steps; other devices make more, because their steps are short
_WARM_UP_ELSEWHERE, _TIMED_ELSEWHERE = 4, 12
_MEASURING_SHARE = 0.1  # a share of the budget; after that, one step and one batch must be enough
_SAVES = 0.9  # a share of a step's time; if frozen blocks leave more, they save too little
_LEAST_SIZE, _STRIDE = 128, 32  # px
_PENALTIES = 7  # epochs of the head, each with its own L2 penalty


def with_time_plan(
    start: RunStart, make: Callable[[RunStart], RunParts], elapsed: Callable[[], float]
) -> tuple[RunStart, TimePlan]:
    """Measure this machine, and choose the settings with which the run `start` ends within its `minutes`.

    Returns `start` with the chosen settings, and the plan. Both are the same on all ranks. `make` builds the parts of a
    run, which are used for the trial and then thrown away. `elapsed` returns the seconds that the run has taken so far.
    Raises UserError for settings that contradict `minutes`.
    """
    asked = start.config
    assert asked.minutes is not None
    if asked.linear_probe:
        raise UserError("linear_probe ends within seconds, so --minutes has nothing to plan; leave --minutes out")
    trial = asked.model_copy(update=_TRIAL)
    parts = make(replace(start, config=trial, model=copy.deepcopy(start.model)))
    ranks = parts.ranks
    try:
        config = parts.config.model_copy(update={name: getattr(asked, name) for name in (*_TRIAL, "interpolation")})
        sizes, sides = _sizes(asked, config, parts.step.teacher)
        given = asked.model_fields_set
        progressive = asked.progressive if "progressive" in given else None
        share = matching_share(config.crop_scale, config.crop_pct if config.resize_mode == "crop" else None)
        head_epochs = asked.head_epochs if "head_epochs" in given else _PENALTIES
        no_head = _why_no_head(parts, config) if head_epochs else ""
        head_first = head_epochs > 0 and not no_head
        if head_first and config.freeze_bn == "auto":
            parts.freeze(freeze_statistics(parts.model))
        parts.fold_frozen()
        tried = sides_to_try(sizes, sides, share, progressive, head_first=head_first)
        most = _MEASURING_SHARE * 60 * asked.minutes
        measured = measure_rates(
            parts,
            sorted({min(tried), max(tried)}),
            lambda: ranks.from_main(lambda: elapsed() > most),
            early_blocks(parts.model) if head_first and "freeze" not in given else 0,
        )
        rates, spent = ranks.from_main(lambda: (measured, elapsed()))
        work = _work(parts, config, head=head_first)
    finally:
        parts.loaders.close()
    device = parts.device
    del parts
    gc.collect()
    release_memory(device)
    plan = make_time_plan(
        60 * asked.minutes,
        spent,
        rates,
        work,
        sizes,
        sides,
        trained_share=share,
        progressive=progressive,
        epochs=asked.epochs - asked.head_epochs if "epochs" in given else None,
    )
    chosen: dict[str, Any] = {"image_size": plan.image_size, "progressive": plan.progressive, "epochs": plan.epochs}
    usual = usual_warmup(plan.epochs_that_fit, head_first=plan.head == "first")
    chosen["warmup_epochs"] = min(config.warmup_epochs if "warmup_epochs" in given else usual, float(plan.epochs))
    if plan.freeze:
        chosen["freeze"] = plan.freeze
    if plan.head == "alone":
        chosen |= {"linear_probe": True, "epochs": _PENALTIES}
        if asked.monitor == "auto":  # labels aren't smoothed here, and the loss tells penalties apart with less noise
            chosen["monitor"] = "val_loss"
    elif plan.head == "first":
        chosen |= {"head_epochs": head_epochs, "epochs": head_epochs + plan.epochs}
    elif asked.head_epochs:
        cached = f"with --minutes the head trains on cached features, but {no_head}"
        why = cached if no_head else "--minutes is too short"
        raise UserError(f"head_epochs = {asked.head_epochs}: {why}; leave head_epochs out")
    return replace(start, config=config.model_copy(update=chosen)), plan


def measure_rates(parts: RunParts, sides: list[int], late: Callable[[], bool], freezable: int = 0) -> Rates:
    """Train a few steps at each of `sides`, evaluate a few batches, and return the seconds that these took.

    The weights change. All ranks make the same steps. `late` returns whether measuring has taken too long; all ranks
    call it together. Once it returns True, only the first side gets a step, and a single batch is evaluated. If
    `freezable` is above 0, the steps at the greatest measured side are repeated with so many blocks frozen. These stay
    frozen.
    """
    kind = parts.device.type
    warm_up, timed = _WARM_UP.get(kind, _WARM_UP_ELSEWHERE), _TIMED.get(kind, _TIMED_ELSEWHERE)
    size = parts.loaders.val.settings.image_size
    steps: dict[int, float] = {}
    for side in sides:
        if not steps or not late():
            steps[side] = _step_seconds(parts, side, warm_up, timed, late)
    evaluation = _evaluation_seconds(parts, 1 if late() else warm_up + timed)
    if not freezable:
        return Rates(steps, evaluation, size)
    parts.freeze(freeze_blocks(parts.model, freezable))
    parts.fold_frozen()
    last = max(steps)
    frozen = _step_seconds(parts, last, warm_up, timed, late) / steps[last]
    return Rates(steps, evaluation, size, freezable, frozen) if frozen < _SAVES else Rates(steps, evaluation, size)


def _step_seconds(parts: RunParts, side: int, warm_up: int, timed: int, late: Callable[[], bool]) -> float:
    state, step, ranks = parts.state, parts.step, parts.ranks
    state.model.train()
    keep_frozen(step.frozen)
    state.loader.set_epoch(state.loader.epoch + 1)  # start at its first batch
    state.loader.set_image_size(side)
    seconds: list[float] = []
    with closing(step_batches(state.loader, step.accumulate)) as batches:
        while len(seconds) < warm_up + timed and not (seconds and late()):
            began = time.perf_counter()
            if (group := next(batches, None)) is None:
                break
            agreed = ranks.agree(None, *step.size(group))
            if agreed.samples:
                step(state, group, agreed)
            synchronize(parts.device)
            seconds.append(time.perf_counter() - began)
            del group
    kept = seconds[warm_up:] or seconds
    return sum(kept) / len(kept)


def _evaluation_seconds(parts: RunParts, batches: int) -> float:
    """Return the seconds per photograph. If there are several batches, the first one is a warm-up."""
    model, step = parts.state.evaluated_model, parts.step
    model.eval()
    seconds: list[tuple[float, int]] = []
    with torch.inference_mode(), closing(iter(parts.loaders.val)) as loader:  # type: ignore[type-var]
        began = time.perf_counter()
        for images, labels, _ in islice(loader, batches):
            if len(labels):
                with step.autocast():
                    model(step.preprocess(copy_to(parts.device, images)))
                synchronize(parts.device)
                seconds.append((time.perf_counter() - began, len(labels)))
            began = time.perf_counter()
    kept = seconds[1:] or seconds
    return sum(each for each, _ in kept) / max(sum(count for _, count in kept), 1)


def _sizes(asked: TrainConfig, config: TrainConfig, teacher: Teacher | None) -> tuple[list[int], set[int]]:
    """Return the sides in px that may be evaluated, the greatest first, and other sides that the model may train on.

    `config` has the size in `asked`, or otherwise the model's own. A `teacher` sees the same images.
    """
    own, name = config.image_size, config.model
    if is_own(name):
        return [own], set()
    img_size = img_size_for(name, own)
    sides = {side for side in range(_STRIDE, own + 1, _STRIDE) if takes(name, side, img_size)}
    if teacher is not None:
        sides = {side for side in sides if teacher.takes(side)}
    if "image_size" in asked.model_fields_set or img_size is not None:
        return [own], sides
    smaller = [side for side in sorted(sides, reverse=True) if _LEAST_SIZE <= side < own]
    return [own, *smaller], sides


def _why_no_head(parts: RunParts, config: TrainConfig) -> str:
    """Return why the head can't be fitted before the rest, or "" if it can."""
    if not (config.pretrained or config.weights is not None):
        return "without pretrained weights the features mean nothing"
    return needs_pixels(config, parts.model, parts.ranks)


def _work(parts: RunParts, config: TrainConfig, *, head: bool) -> Work:
    loaders, ranks = parts.loaders, parts.ranks
    tta = 2 if config.tta == "flip" else 1

    def each(loader: object) -> int:
        batches = len(loader)  # type: ignore[arg-type]
        return min(batches * parts.batch_size, -(-len(loader.ids) // ranks.size))  # type: ignore[attr-defined]

    photographs, validation = len(loaders.train.ids), each(loaders.val)
    return Work(
        steps=parts.steps_an_epoch,
        photographs=photographs,
        test=len(loaders.test.ids) if loaders.test else 0,
        validation=validation,
        end=validation + each(loaders.test or loaders.val) * tta + _averaging(parts, config.average, validation),
        solved=min(photographs, most_for_head(config) or photographs) if head else 0,
        alone=head and not config.changed(NEEDS_PIXELS),
    )


def _averaging(parts: RunParts, epochs: int, validation: int) -> int:
    """Return how many photographs the model sees at most while the weights of `epochs` epochs are averaged."""
    if epochs < 2:
        return 0
    seen = min(len(parts.loaders.train.ids), STATISTICS_BATCHES * parts.batch_size)
    statistics = seen if trained_norms(parts.model, parts.frozen) else 0
    return (epochs - 1) * (validation + statistics) + statistics
