"""Which settings a run has, and which checkpoint it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.checkpoint.folder import CHECKPOINTS, checkpoints_of, find_checkpoint, newest_checkpoint
from fasttrain.config.load import read_toml, resolve
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError


@dataclass(frozen=True)
class RunStart:
    """The resolved settings, and where a resumed run stood: its folder and checkpoint (None for a fresh run).

    `changed` lists the settings given now that differ from the checkpoint's, as "name: old -> new"; `torn` has a line
    for each newer checkpoint that is not intact.
    """

    config: TrainConfig
    folder: Path | None = None
    checkpoint: dict[str, Any] | None = None
    changed: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()


def start_of_run(config_file: Path | None, given: Mapping[str, Any], restarted: Path | None = None) -> RunStart:
    """Settings given now win over the TOML file's, those over a resumed checkpoint's, those over the defaults.

    So `--resume auto` alone goes on exactly as the run began. `restarted` is the folder of the run that torchrun
    restarts: it goes on from its checkpoint, or begins again in it where there is none yet. Raises UserError for bad
    settings, or a checkpoint that can't be found, read, or belongs to another model.
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
            f"{path}: not in a run's {CHECKPOINTS} folder, where it was written; put it back, or give --resume the run"
        )
    config = resolve(then, file, given, origin=origin)
    if config.batch_size == "auto":  # the number that was found when the run began
        config = config.model_copy(update={"batch_size": resolve(then).batch_size})
    before, now = resolve(then).plain(), config.plain()
    if before["model"] != now["model"]:
        raise UserError(f"{path} is of model '{before['model']}', not '{now['model']}'; leave --model out to resume")
    changed = tuple(
        f"{name}: {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name != "resume"
    )
    return RunStart(config, path.parents[1], found.state, changed, found.torn)
