"""`profile`: a run's settings in; where a step's time goes, as figures, a sentence and a picture, out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fasttrain.config.load import load_config
from fasttrain.config.location import user_path
from fasttrain.config.schema import TrainConfig
from fasttrain.cores import crowded, usable_cores
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

_AMP_PAYS = 1.1  # times as fast: less is not worth other results
_ENDLESS = 100_000  # epochs: however short they are, the learning rate's schedule must not end


def profile(
    config: TrainConfig | str | Path | None = None,
    /,
    *,
    steps: int = 30,
    picture: str | Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Profile:
    """Runs a few steps as `train` would with the same settings, and measures them: `fasttrain profile` from Python.

    `config` and `settings` are `train`'s. `picture` is a PNG to write; nothing else is left behind. `console`: where
    progress is told, None for nowhere. With `progressive` the steps are those of the last size. Raises UserError, also
    where a setting leaves no steps to measure.
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
        others = crowded()
        with console.status("measuring") as status:
            amp = _amp_to_try(parts)
            measured = measure(parts.state, parts.step, steps, lambda part: status.update(f"measuring: {part}"), amp)
        conditions = _conditions(parts, measured, others)
    finally:
        parts.loaders.close()
        release_memory(parts.device)
    found = diagnose(measured, asked.model_copy(update={"batch_size": parts.batch_size}), conditions)
    photographs = len(parts.loaders.train.ids)
    a_step = parts.batch_size * parts.step.accumulate
    result = Profile(measured, found, a_step, photographs, parts.loader_name, str(parts.device))
    if picture is not None:
        write_picture(picture, profile_figure(result))
    return result


def _check(config: TrainConfig) -> None:
    if config.resume is not None:
        raise UserError(f"resume = '{config.resume}': profile begins afresh; leave it out")
    if config.linear_probe:
        raise UserError("linear_probe computes features once and then has hardly a step to profile; leave it out")
    require_one_process("profile measures one process")
    if (config.gpus or 1) > 1:
        raise UserError(f"gpus = {config.gpus}: profile measures one process; give --gpus 1")


def _amp_to_try(parts: RunParts) -> Autocast | None:
    """bf16 on a CPU that has kernels for it: whether they are faster depends on the model and the pictures' size."""
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
        crowded=others,
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
