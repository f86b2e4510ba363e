"""Resolve a run's settings, and find the checkpoint that it resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.folder import CHECKPOINTS, checkpoints_of, find_checkpoint, newest_checkpoint
from fasttrain.config.load import read_toml, resolve
from fasttrain.config.resuming import changes, lasting
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.model.own import OwnModel
from fasttrain.training.default_weights import keep_weights


@dataclass(frozen=True)
class RunStart:
    """The settings of a run that begins or resumes, and the state from which it resumes.

    `config`: the resolved settings. `folder`, `checkpoint`: the folder and the checkpoint of a resumed run. Both are
    None for a new run; only `checkpoint` is None if torchrun restarts a run that has none yet. `before`: the settings
    in the checkpoint. `changed`: the settings given now that differ from `before`, as "name: old -> new". `torn`: a
    line for each newer checkpoint that is damaged. `went_back`: whether the checkpoint is not the newest one, so that
    the epochs after it are dropped. `model`: a model passed as an object, which the settings can't hold.
    """

    config: TrainConfig
    folder: Path | None = None
    checkpoint: dict[str, Any] | None = None
    changed: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    before: TrainConfig | None = None
    went_back: bool = False
    model: OwnModel | None = None

    @property
    def model_source(self) -> str | OwnModel:
        """Return the model that was passed as an object, or else the model's name."""
        return self.config.model if self.model is None else self.model


def start_of_run(config_file: Path | None, given: Mapping[str, Any], restarted: Path | None = None) -> RunStart:
    """Resolve the settings of a run that begins or resumes.

    Settings in `given` take precedence over those in `config_file` (TOML), then come those of a resumed checkpoint,
    then the defaults. So `--resume auto` alone continues exactly as the run began. `restarted` is the folder of a run
    that torchrun restarts: the run resumes from its checkpoint, or begins again if there is none yet. Raises UserError
    for invalid settings, for a setting that can't change in a resumed run (see `config.resuming`), or if no checkpoint
    can be found or read.
    """
    file = read_toml(config_file) if config_file else {}
    origin = str(config_file) if config_file else "settings"
    config = resolve(file, given, origin=origin)
    if restarted is not None and not checkpoints_of(restarted):
        return RunStart(config, restarted)
    if restarted is None and config.resume is None:
        return RunStart(config)
    found = newest_checkpoint(restarted) if restarted else find_checkpoint(str(config.resume), config.out)
    if found is None:
        return RunStart(config)
    path, then = found.path.absolute(), found.state.get("config")
    if not isinstance(then, dict):
        raise UserError(
            f"{path}: not a checkpoint of a run; give --resume a run folder, one of its checkpoints, or auto"
        )
    if path.parent.name != CHECKPOINTS:
        raise UserError(
            f"{path}: not in the {CHECKPOINTS} folder of a run; move it back there, or give --resume the run folder"
        )
    before, config = _resolve_resumed(lasting(then), file, given, origin)
    changed = changes(before, config, path)
    _require_epochs(config.epochs, found.state)
    if found.state.get("phase") == "refit" and config.epochs != before.epochs:
        raise UserError(
            f"epochs = {before.epochs} can't become {config.epochs} in {path}: the refit has begun, and its epochs "
            "are fixed; --resume an earlier checkpoint, or start a new run"
        )
    _complete(found.state, before)
    went_back = restarted is None and not found.torn and not _is_newest(path)
    return RunStart(config, path.parents[1], found.state, changed, found.torn, before, went_back)


def _resolve_resumed(
    then: dict[str, Any], file: Mapping[str, Any], given: Mapping[str, Any], origin: str
) -> tuple[TrainConfig, TrainConfig]:
    """Return the settings of the checkpoint, and those of the run that resumes it."""
    # A recipe would fill in settings that the run left unset, so it is not applied again.
    layers = [{name: each for name, each in layer.items() if name != "recipe"} for layer in (then, file, given)]
    before, now = resolve(layers[0]), resolve(*layers, origin=origin)
    recipes = [recipe for layer in (given, file, then) if (recipe := layer.get("recipe")) is not None]
    before = before.model_copy(update={"recipe": then.get("recipe")})
    update: dict[str, Any] = {"recipe": recipes[0] if recipes else None, "model": keep_weights(before.model, now.model)}
    if now.batch_size == "auto":  # use the size found when the run began
        update["batch_size"] = before.batch_size
    for name in ("interpolation", "monitor"):  # use what was chosen when the run began
        if getattr(now, name) == "auto":
            update[name] = getattr(before, name)
    return before, now.model_copy(update=update)


def _is_newest(path: Path) -> bool:
    """Return whether this intact checkpoint is the newest intact one of its run."""
    run = path.parents[1]
    paths = checkpoints_of(run)
    return paths[:1] == [path] or (path in paths and newest_checkpoint(run).path == path)


def _require_epochs(epochs: int, checkpoint: Mapping[str, Any]) -> None:
    begun = checkpoint.get("epoch", 0) + (checkpoint.get("loader", {}).get("samples", 0) > 0)
    if checkpoint.get("phase") == "refit":  # its epochs come after those asked for
        begun = checkpoint["phase_epoch"]
    if epochs < begun:
        raise UserError(
            f"epochs = {epochs} is fewer than the {begun} that the checkpoint has begun; give at least {begun}, or "
            "--resume an earlier checkpoint"
        )


def _complete(checkpoint: dict[str, Any], before: TrainConfig) -> None:
    """Add to `checkpoint` the entries that older versions stored only in the settings."""
    checkpoint.get("optimizer", {}).setdefault("kind", before.optimizer)
    for name, value in (("kind", before.scheduler), ("learning_rate", before.learning_rate)):
        checkpoint.get("schedule", {}).setdefault(name, value)
