"""`train`: a folder of shards in, a trained, evaluated and tracked model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.commands.run import AfterEpoch, Run
from fasttrain.config.model_name import model_name
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.model.own import OwnModel, passed_object
from fasttrain.ranks import Ranks
from fasttrain.stop import StopRequest
from fasttrain.terminal import make_console
from fasttrain.training.callback import Callback, require_callbacks
from fasttrain.training.result import TrainResult
from fasttrain.training.resume import RunStart, start_of_run
from fasttrain.training.saving import Saving
from fasttrain.training.setup import make_parts


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
    """Trains, evaluates and tracks one run: `fasttrain train` from Python.

    `config` is a `TrainConfig` or a TOML file; `settings` are `TrainConfig`'s fields and win over it. `model` may be
    your own: a module, which holds the best epoch's weights at the end, or a function `(num_classes) -> module`.
    `callbacks` are called in their order. `after_epoch` is called on rank 0 after each epoch, `tags` go to MLflow's
    run, `console` gets the run's output.

    Raises UserError (what you can fix), Stopped (SIGTERM; resume with `resume="auto"`), KeyboardInterrupt (after a
    checkpoint; a second Ctrl-C skips it). Under torchrun, ranks above 0 raise SystemExit in place of the first two.
    """
    if isinstance(config, TrainConfig):
        settings = {**config.model_dump(exclude_unset=True), **settings}
        config = None
    if model is not None:
        settings["model"] = model_name(model)
    ranks = Ranks.of_environment()
    with ranks, StopRequest("stopping after this step, with a checkpoint") as stop:
        file = Path(config) if config else None
        start = ranks.from_main(lambda: start_of_run(file, settings, ranks.run_of_before()))
        if start.config.folds is not None:
            raise UserError(f"folds = {start.config.folds}: from Python call fasttrain.train_folds")
        start = replace(start, model=passed_object(model))
        if console is None or not ranks.main:
            console = make_console(start.config.log_format, quiet=not ranks.main)
        return make_run(start, console, stop, ranks, after_epoch, tags, callbacks).run()


def make_run(
    start: RunStart,
    console: Console,
    stop: StopRequest,
    ranks: Ranks,
    after_epoch: AfterEpoch | None = None,
    tags: Mapping[str, str] | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> Run:
    """Make the run's parts and folder, and print them. Raises what `make_parts` and `require_callbacks` raise."""
    if change := require_callbacks(callbacks, start.checkpoint):
        start = replace(start, changed=(*start.changed, change))
    parts = make_parts(start, console, ranks)
    config = parts.config
    folder = ranks.from_main(lambda: start.folder or RunFolder.create(config.out, config.model).path)
    ranks.remember_run(folder)
    saving = Saving(folder, config.save_every, config.keep, ranks.main)
    run = Run(parts, RunFolder(folder), saving, console, stop, after_epoch, tags or {}, callbacks)
    run.describe()
    return run
