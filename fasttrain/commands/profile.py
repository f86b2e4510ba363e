"""`profile`: measure how a training step spends its time, and report figures, a diagnosis and a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fasttrain.config.load import load_config
from fasttrain.config.location import user_path
from fasttrain.config.schema import TrainConfig
from fasttrain.cores import busy_cores_warning, usable_cores
from fasttrain.device import choose_workers, release_memory
from fasttrain.environment import require_one_process
from fasttrain.errors import UserError
from fasttrain.loaders.registry import loaders_to_try
from fasttrain.memory import total_memory
from fasttrain.model.precision import Autocast, amp_problem, make_precision
from fasttrain.profiling.diagnosis import Conditions, diagnose
from fasttrain.profiling.measure import Measured, measure
from fasttrain.profiling.picture import profile_figure
from fasttrain.profiling.result import Profile
from fasttrain.ranks import Ranks
from fasttrain.report.figure_file import require_picture, write_picture
from fasttrain.terminal import make_console
from fasttrain.training.parts import RunParts
from fasttrain.training.resume import RunStart
from fasttrain.training.setup import make_parts
from fasttrain.training.warm_up import warm_up

_AMP_PAYS = 1.1  # times as fast; a smaller gain is not worth the lower precision
_ENDLESS = 100_000  # epochs, so that the learning rate's schedule doesn't end even if epochs are short


def profile(
    config: TrainConfig | str | Path | None = None,
    /,
    *,
    steps: int = 30,
    picture: str | Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Profile:
    """Run a few training steps as `train` would, measure their phases, and return the diagnosis.

    `config` and `settings` are those of `train`. `steps`: the number of steps to measure, after a few warm-up steps.
    `picture`: a PNG file to write with the chart; no other file is created. `console`: shows the progress; None shows
    nothing. With the setting `progressive` the steps have the last, greatest image size. Raises UserError for invalid
    settings, and for `resume`, `linear_probe` and several `gpus`, which can't be profiled.
    """
    picture = None if picture is None else user_path(picture)
    console = console or make_console(quiet=True)
    asked = load_config(config, settings)
    _check(asked)
    if picture is not None:
        require_picture(picture)
    endless = asked.model_copy(update={"epochs": _ENDLESS, "head_epochs": 0, "refit": False})
    parts = make_parts(RunStart(endless), console, Ranks())
    try:
        parts.describe(console)
        parts.fold_frozen()
        warm_up(parts)
        others = busy_cores_warning()
        with console.status("measuring") as status:
            amp = _amp_to_try(parts)
            measured = measure(parts.state, parts.step, steps, lambda part: status.update(f"measuring: {part}"), amp)
        conditions = _conditions(parts, measured, others)
    finally:
        parts.loaders.close()
        release_memory(parts.device)
    found = diagnose(measured, asked.model_copy(update={"batch_size": parts.batch_size}), conditions)
    photographs = len(parts.loaders.train.ids)
    photographs_per_step = parts.batch_size * parts.step.accumulate
    result = Profile(measured, found, photographs_per_step, photographs, parts.loader_name, str(parts.device))
    if picture is not None:
        write_picture(picture, profile_figure(result))
    return result


def _check(config: TrainConfig) -> None:
    if config.resume is not None:
        raise UserError(f"resume = '{config.resume}': profile can't resume a run; leave resume out")
    if config.linear_probe:
        raise UserError(
            "linear_probe has no training steps to profile, as it solves for the head; leave linear_probe out"
        )
    require_one_process("profile measures one process")
    if (config.gpus or 1) > 1:
        raise UserError(f"gpus = {config.gpus}: profile measures one process; give --gpus 1")


def _amp_to_try(parts: RunParts) -> Autocast | None:
    """Return the autocast of bf16 if the step should be measured again in bf16. Otherwise return None.

    It should on a CPU with fast bf16 if the settings ask for fp32: model and image size decide which one is faster.
    """
    config, device = parts.config, parts.device
    if config.amp or config.amp_dtype != "bf16" or device.type != "cpu" or amp_problem(device, "bf16") is not None:
        return None
    return make_precision("bf16", parts.model, device).autocast


def _conditions(parts: RunParts, measured: Measured, others: str | None) -> Conditions:
    shards, device = parts.shards, str(parts.device)
    ids = shards.ids("train")
    return Conditions(
        device=parts.device.type,
        cores=usable_cores(),
        busy_cores=others,
        loader=parts.loader_name,
        workers=choose_workers(parts.config.workers),
        faster_loaders=loaders_to_try(parts.loader_name, shards, device),
        amp_pays=(
            parts.device.type != "cpu"
            if measured.amp_rate is None
            else measured.amp_rate > _AMP_PAYS * measured.step_alone.rate
        ),
        compiled=parts.compiled,
        fused=bool(parts.state.optimizer.defaults.get("fused")),
        stored_side=int(np.median(shards.sizes()[ids].max(axis=1))),
        raw=shards.raw,
        fits_memory=sum(shard.bytes for shard in shards.manifest.shards) < total_memory(),
    )
