"""Find the bottleneck of a measured training step, and propose settings to change.

FFCV's "bottleneck doctor" is a checklist for people. This advice follows from the measured numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fasttrain.config.schema import NEEDS_PIXELS, TrainConfig
from fasttrain.config.values import RandAugment
from fasttrain.profiling.measure import Measured
from fasttrain.training.step import AUGMENT, BACKWARD, COPY, DATA, FORWARD, LOGGING, OPTIMIZER

WAITING = 0.10  # if the loader is slower than the step, waiting is the bottleneck from this share of the time on
HOLDS_UP = 0.25  # any phase except the model's is the bottleneck from this share of the time on
PROPOSALS = 3
COPY_TIES = 1.2  # the loader's rate includes the copies, so the two are never quite equal


@dataclass(frozen=True)
class Conditions:
    """The facts, besides measurements and settings, that the diagnosis depends on.

    `device`: "cpu", "cuda" or "mps". `cores`: the number of cores that this process may use. `loader`: the name of the
    loader in use. `workers`: its number of threads or processes. `faster_loaders`: the names of loaders that may be
    faster. `amp_pays`: mixed precision makes the step faster. `compiled`: the model is compiled. `fused`: the optimizer
    runs as one kernel. `stored_side`: the median of the photographs' longer sides in the shards, px. `raw`: the shards
    store pixels, not JPEGs. `fits_memory`: all shards fit into memory. `busy_cores`: a warning that other programs keep
    cores busy, or None.
    """

    device: str
    cores: int
    loader: str
    workers: int
    faster_loaders: tuple[str, ...] = ()
    amp_pays: bool = False
    compiled: bool = False
    fused: bool = True
    stored_side: int = 0
    raw: bool = False
    fits_memory: bool = True
    busy_cores: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What limits the speed of training, and which settings to try.

    `bottleneck`: the phase of the step that limits the speed, "data", "copy", "augment", "optimizer", "logging" or
    "model"; or "cores" if loader and step compete for the cores. `proposals`: options to try, the most promising first,
    at most three. `sentence`: bottleneck and proposals in words.
    """

    bottleneck: str
    proposals: tuple[str, ...]
    sentence: str


def diagnose(measured: Measured, config: TrainConfig, conditions: Conditions) -> Diagnosis:
    """Return the diagnosis of the measurement `measured` of a run with the settings `config`.

    Settings that are already in use are not proposed.
    """
    bottleneck = _bottleneck(measured, conditions)
    proposals = tuple(islice(_PROPOSALS[bottleneck](config, conditions), PROPOSALS))
    found = _found(bottleneck, measured, config, conditions)
    advice = f"try {', or '.join(proposals)}" if proposals else f"no setting is left to try: {_LEFT[bottleneck]}"
    warning = (
        f" {conditions.busy_cores[0].upper()}{conditions.busy_cores[1:]}: end these programs and measure again."
        if conditions.busy_cores
        else ""
    )
    return Diagnosis(bottleneck, proposals, f"{found}; {advice}.{warning}")


def _bottleneck(measured: Measured, conditions: Conditions) -> str:
    shares = {name: phase.share for name, phase in measured.together.phases.items()}
    alone = measured.step_alone.rate
    # If the loader works in parallel and is slower than the step, a faster step would only wait longer.
    slower = measured.loader_rate < alone or conditions.workers == 0
    if shares[DATA] >= HOLDS_UP or (shares[DATA] >= WAITING and slower):
        copies = measured.copy_rate
        return COPY if copies is not None and copies < COPY_TIES * measured.loader_rate else DATA
    greatest = max((COPY, AUGMENT, OPTIMIZER, LOGGING), key=lambda name: shares[name])
    if shares[greatest] >= HOLDS_UP:
        return greatest
    loader_share = alone / (alone + measured.loader_rate)  # the loader's share of the cores, if both keep them busy
    if conditions.device == "cpu" and loader_share >= HOLDS_UP and measured.together.rate < (1 - HOLDS_UP) * alone:
        return "cores"
    return "model"


def _found(bottleneck: str, measured: Measured, config: TrainConfig, conditions: Conditions) -> str:
    phases = measured.together.phases
    together, alone, loader = measured.together.rate, measured.step_alone.rate, measured.loader_rate

    def takes(*names: str) -> str:
        mean = sum(phases[name].mean for name in names)
        return f"{sum(phases[name].share for name in names):.0%} of the time, {mean * 1e3:,.1f} ms per step"

    if bottleneck == DATA:
        waits = (
            f"waiting for data takes {phases[DATA].share:.0%} of the time: {conditions.loader} delivers {loader:,.0f}"
        )
        if loader < alone:
            return f"{waits} img/s, but the step could use {alone:,.0f}"
        return f"{waits} img/s alone and the step could use {alone:,.0f}, but they do not run in parallel"
    if bottleneck == COPY:
        return (
            f"copies to the device slow the step down: {measured.copy_rate or 0:,.0f} img/s arrive, but the step "
            f"could use {alone:,.0f}"
        )
    if bottleneck == AUGMENT:
        return f"augmenting and normalizing take {takes(AUGMENT)}"
    if bottleneck == OPTIMIZER:
        extras = [name for name, on in (("EMA", config.ema_decay), ("clipping", config.clip_grad)) if on]
        return f"the optimizer{' with ' * bool(extras)}{' and '.join(extras)} takes {takes(OPTIMIZER)}"
    if bottleneck == LOGGING:
        return f"computing and showing the loss takes {takes(LOGGING)}"
    if bottleneck == "cores":
        return (
            f"loader and step share {conditions.cores} cores: {together:,.0f} img/s together, while the step alone "
            f"reaches {alone:,.0f} and the loader alone {loader:,.0f}"
        )
    return (
        f"the model takes {takes(FORWARD, BACKWARD)} (forward {phases[FORWARD].share:.0%}, backward "
        f"{phases[BACKWARD].share:.0%}), while {conditions.loader} alone delivers {loader:,.0f} img/s and the step "
        f"alone reaches {alone:,.0f}"
    )


def _for_data(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    if not conditions.fits_memory and config.shuffle != "shards":
        yield "--shuffle shards"
    yield from _faster_loader(config, conditions)
    if conditions.workers < conditions.cores:
        yield f"--workers {conditions.cores}"
    yield from _smaller_photographs(config, conditions)


def _for_cores(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    yield from _faster_loader(config, conditions)
    yield from _smaller_photographs(config, conditions)


def _faster_loader(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    if conditions.faster_loaders:
        yield f"--loader {conditions.faster_loaders[0]}"


def _smaller_photographs(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    # 256 px for 224, as in validation
    enough = math.ceil(max(config.image_size, config.eval_size or 0) / config.crop_pct / 32) * 32
    if conditions.stored_side > 1.25 * enough:
        yield f"convert --max-size {enough}"
    if not conditions.raw and conditions.loader in ("native", "torchvision"):
        yield f"convert --raw --max-size {enough}"


def _for_copies(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    if "dali" in conditions.faster_loaders:  # it sends JPEGs instead of pixels
        yield "--loader dali"
    yield from _smaller_pictures(config)


def _for_augmenting(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    # in the order of their cost, see docs/design.md
    if (rand_augment := config.rand_augment) is not None:
        if rand_augment.n > 1:
            yield f"--rand-augment {RandAugment(rand_augment.n - 1, rand_augment.m)}"
        else:
            yield "leaving --rand-augment out"
    if config.trivial_augment:
        yield "--no-trivial-augment"
    for name in ("color_jitter", "random_erasing", "mixup", "cutmix"):
        if getattr(config, name):
            yield f"--{name.replace('_', '-')} 0"


def _for_updates(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    if not conditions.fused:
        yield "--optimizer adamw, one fused kernel"
    if config.ema_decay is not None:
        yield "leaving --ema-decay out"
    if config.clip_grad is not None:
        yield "leaving --clip-grad out"
    yield from _larger_batches(config, conditions)
    yield f"--grad-accumulation {2 * config.grad_accumulation}"


def _larger_batches(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    yield f"--batch-size {2 * config.batch_size}"


def _for_the_model(config: TrainConfig, conditions: Conditions) -> Iterator[str]:
    if config.grad_checkpointing:
        yield "--no-grad-checkpointing, if memory allows"
    if conditions.amp_pays and not config.amp:
        yield "--amp"
    if not config.channels_last:
        yield "--channels-last"
    if conditions.device == "cuda" and config.deterministic:
        yield "--no-deterministic"
    elif conditions.device == "cuda" and not conditions.compiled:
        yield "--compile on"
    trained = config.pretrained or config.weights is not None
    if trained and not config.freeze:
        yield "--freeze N"
        if not config.changed(NEEDS_PIXELS):
            yield "--linear-probe"
    yield from _smaller_pictures(config)


def _smaller_pictures(config: TrainConfig) -> Iterator[str]:
    size = config.image_size
    if config.progressive is None and size % 32 == 0 and size >= 96:
        yield f"--progressive {max(round(size * 4 / 7 / 32), 1) * 32}:{size}"
    if size >= 128:
        yield f"--image-size {round(size * 5 / 7 / 32) * 32}"


_PROPOSALS = {
    DATA: _for_data,
    COPY: _for_copies,
    AUGMENT: _for_augmenting,
    OPTIMIZER: _for_updates,
    LOGGING: _larger_batches,
    "cores": _for_cores,
    "model": _for_the_model,
}
_LEFT = {
    DATA: "loading needs more cores",
    COPY: "copying needs a faster bus",
    AUGMENT: "augmenting needs a faster device",
    "cores": "loader and step need more cores",
    "model": "the step needs a faster device or a smaller --model",
}
