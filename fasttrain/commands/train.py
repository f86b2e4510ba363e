"""`train`: train a model on shards, evaluate it and track the run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from rich.console import Console

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.commands.provenance import Provenance
from fasttrain.commands.run import AfterEpoch, Run
from fasttrain.config.model_name import model_name
from fasttrain.config.schema import TrainConfig
from fasttrain.config.trackers import MLFLOW
from fasttrain.environment import independent_tasks_warning
from fasttrain.errors import UserError
from fasttrain.launch import require_devices, run_in_ranks
from fasttrain.model.own import OwnModel, passed_object
from fasttrain.ranks import Ranks
from fasttrain.stop import StopRequest
from fasttrain.terminal import make_console
from fasttrain.text import counted
from fasttrain.tracking.mirrored import require_trackers
from fasttrain.tracking.store import configured_uri
from fasttrain.training.callback import Callback, require_callbacks
from fasttrain.training.pace import Pace, clock, resumed_plan
from fasttrain.training.parts import RunParts
from fasttrain.training.rates import with_time_plan
from fasttrain.training.result import TrainResult
from fasttrain.training.resume import RunStart, start_of_run
from fasttrain.training.saving import Saving
from fasttrain.training.setup import make_parts
from fasttrain.training.time_plan import TimePlan

STOPPING = "stopping after this step, with a checkpoint"


def train(
    config: TrainConfig | str | Path | None = None,
    /,
    *,
    model: str | OwnModel | None = None,
    callbacks: Sequence[Callback] | None = None,
    after_epoch: AfterEpoch | None = None,
    tags: Mapping[str, str] | None = None,
    console: Console | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a model, evaluate it and track the run, as `fasttrain train` does.

    config: a `TrainConfig` or the path of a TOML file. settings: fields of `TrainConfig`, which take precedence over
    `config`. model: a name, your own nn.Module, or a function `(num_classes) -> nn.Module`. A module that you pass
    holds the best epoch's weights at the end. callbacks: called in the given order. after_epoch: called after each
    epoch with its record, a dict as in `history.json`; if it returns True, the run ends. tags: tags for the MLflow run.
    console: prints the run's output.

    The result has the run's `folder`, the `history` with a record per epoch, the `best_epoch` (from 1) and the
    `evaluation` of its weights on the test split, or on the validation split if there is no test split.

    With the setting `gpus` above 1, that many processes are started. They work on copies of `model` and `callbacks`,
    and your objects are updated at the end. `after_epoch` is called in the process that called `train`.

    Raises UserError for errors that you can fix, Stopped after SIGTERM, and KeyboardInterrupt after Ctrl-C. Before
    Stopped and KeyboardInterrupt a checkpoint is saved, unless Ctrl-C is pressed twice; continue with `resume="auto"`.
    Under torchrun, ranks above 0 raise SystemExit instead of UserError and Stopped.
    """
    if isinstance(config, TrainConfig):
        settings = {**config.model_dump(exclude_unset=True), **settings}
        config = None
    if model is not None:
        settings["model"] = model_name(model)
    file = Path(config) if config else None
    return _train(file, settings, console=console, model=model, callbacks=callbacks, after_epoch=after_epoch, tags=tags)


def _train(file: Path | None, settings: Mapping[str, Any], *, started: bool = False, **options: Any) -> TrainResult:
    """Train in this process, which may be one rank of several.

    `started`: `train_here` has started this process as a rank, and prints the message at Ctrl-C itself.
    """
    ranks = Ranks.of_environment()
    with ranks, StopRequest("" if started else STOPPING) as stop:
        return train_here(ranks, stop, file, settings, **options)


def train_here(
    ranks: Ranks,
    stop: StopRequest,
    file: Path | None,
    settings: Mapping[str, Any],
    *,
    restarted: Path | None = None,
    console: Console | None = None,
    model: str | OwnModel | None = None,
    callbacks: Sequence[Callback] | None = None,
    after_epoch: AfterEpoch | None = None,
    tags: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train one run in this process, one of `ranks`. If the setting `gpus` is greater, start that many ranks instead.

    `stop`: says whether a signal has asked the run to stop. `file`: a TOML file of settings. `restarted`: the folder of
    a run to continue if it was started before, or None. All other arguments, and the errors, are those of `train`.
    """
    start = ranks.from_main(lambda: _start(file, settings, restarted or ranks.restarted_run()))
    if start.config.folds is not None:
        raise UserError(f"folds = {start.config.folds}: train() makes a single run; call fasttrain.train_folds instead")
    start = with_gpus_of(start, ranks)
    if console is None or not ranks.main:
        console = make_console(start.config.log_format, quiet=not ranks.main)
    if line := independent_tasks_warning():
        console.print(line, style="yellow", soft_wrap=True)
    if (count := start.config.gpus or 1) > ranks.size:
        del start  # each rank reads the checkpoint itself
        options = {"restarted": restarted, "model": model, "callbacks": callbacks, "tags": tags}
        work = partial(_rank, file, settings, after_epoch is not None, options)
        result, states = run_in_ranks(work, count, stop, console, after_epoch)
        _update_objects(result, states, model, callbacks or (), console)
        return result
    start = replace(start, model=passed_object(model))
    return make_run(start, console, stop, ranks, after_epoch, tags, callbacks).run()


def _start(file: Path | None, settings: Mapping[str, Any], restarted: Path | None) -> RunStart:
    start = start_of_run(file, settings, restarted)
    require_trackers(start.config.track)
    if MLFLOW in start.config.track.names:
        configured_uri()  # raises for an invalid store, before any work is done
    return start


def _rank(
    file: Path | None, settings: Mapping[str, Any], asks: bool, options: dict[str, Any], ask: AfterEpoch
) -> tuple[TrainResult, list[bytes | None]]:
    """Train in a process that `run_in_ranks` has started. Return the result, and the pickled state of each callback."""
    result = _train(file, settings, started=True, after_epoch=ask if asks else None, **options)
    return result, [_pickled_state(each) for each in options["callbacks"] or ()]


def _pickled_state(callback: Callback) -> bytes | None:
    """Return the attributes of `callback`, pickled, or None if pickling raises any error."""
    try:
        return bytes(cloudpickle.dumps(vars(callback)))
    except Exception:
        return None


def _update_objects(
    result: TrainResult,
    states: Sequence[bytes | None],
    model: str | OwnModel | None,
    callbacks: Sequence[Callback],
    console: Console,
) -> None:
    """Update the caller's model and callbacks after a run in other processes, from the run's weights and `states`."""
    if isinstance(model, torch.nn.Module):
        RunFolder(result.folder).read_model(model)
    for callback, attributes in zip(callbacks, states, strict=True):
        if attributes is None:
            name = type(callback).__name__
            console.print(
                f"{name}: its state on rank 0 can't be pickled, so your object is not updated", style="yellow"
            )
        else:
            vars(callback).update(pickle.loads(attributes))


def with_gpus_of(start: RunStart, ranks: Ranks) -> RunStart:
    """Check the setting `gpus` against this machine and torchrun's ranks. Return `start`, perhaps without `gpus`.

    If a resumed run has a `gpus` that differs from the number of torchrun's ranks, it is replaced by None. Raises
    UserError if this machine has too few GPUs, or if `gpus` was given now and differs from torchrun's ranks.
    """
    gpus = start.config.gpus
    if gpus is None:
        return start
    if ranks.size == 1:
        require_devices(start.config.device, gpus)
        return start
    if gpus == ranks.local_size == ranks.size:
        return start
    if start.before is None or start.before.gpus != gpus:
        raise UserError(
            f"gpus = {gpus}: torchrun has started {counted(ranks.local_size, 'rank')} on this machine; leave gpus out, "
            "or start without torchrun"
        )
    return replace(start, config=start.config.model_copy(update={"gpus": None}))


def make_run(
    start: RunStart,
    console: Console,
    stop: StopRequest,
    ranks: Ranks,
    after_epoch: AfterEpoch | None = None,
    tags: Mapping[str, str] | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> Run:
    """Return a run with its parts (data, loaders, model, optimizer) and its folder, and print a description.

    With the setting `minutes`, the time starts with this call. `after_epoch`, `tags` and `callbacks` are those of
    `train`. Raises UserError, for instance if the data or the model can't be used with these settings.
    """
    if change := require_callbacks(callbacks, start.checkpoint):
        start = replace(start, changed=(*start.changed, change))
    began = clock()
    start, plan = _planned(start, ranks, began)
    provenance = Provenance() if ranks.main else None
    parts = make_parts(start, console, ranks)
    config = parts.config
    if plan is not None:
        parts.notes += (plan.line_of_choice(),)
    parts.state.pace = _pace(parts, plan, began)
    folder = ranks.from_main(lambda: start.folder or RunFolder.create(config.out, config.model).path)
    ranks.remember_run(folder)
    saving = Saving(folder, config.save_every, config.keep, ranks.main)
    run = Run(parts, RunFolder(folder), saving, console, stop, after_epoch, tags or {}, callbacks, provenance, began)
    run.describe()
    return run


def _planned(start: RunStart, ranks: Ranks, began: float) -> tuple[RunStart, TimePlan | None]:
    if start.config.minutes is None or start.checkpoint is not None:
        return start, None
    quiet = make_console(quiet=True)
    return with_time_plan(start, lambda trial: make_parts(trial, quiet, ranks), lambda: clock() - began)


def _pace(parts: RunParts, plan: TimePlan | None, began: float) -> Pace | None:
    """Return the pace that keeps the run within `minutes`, or None without this setting.

    A resumed run continues the plan in its checkpoint, a new run follows `plan`.
    """
    if (stored := (parts.start.checkpoint or {}).get("pace")) is not None:
        plan = resumed_plan(stored, parts.config, parts.steps_an_epoch)
    return None if plan is None else Pace(plan, began)
