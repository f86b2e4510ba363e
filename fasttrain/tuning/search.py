"""The search space (three settings), and the Optuna study on the disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.errors import UserError, fixable, of_os
from fasttrain.files import make_folder
from fasttrain.machine import lock, unlock
from fasttrain.text import nearest

if TYPE_CHECKING:
    import optuna

PRUNERS = ("median", "hyperband", "none")
STUDY = "study.db"
TRIALS = "trials"
_NAME = "fasttrain"
_FREE = ("loader", "workers", "device", "cache_size", "save_every", "keep", "experiment", "track", "profile", "explain")
"""Settings that don't affect the results, so a study can be continued with other values."""

_RATES = {"sgd": (1e-3, 1.0), "other": (1e-4, 0.1)}


@dataclass(frozen=True)
class Space:
    """The search space: ranges (minimum, maximum), searched on a logarithmic scale, and batch sizes to choose from."""

    learning_rate: tuple[float, float]
    weight_decay: tuple[float, float]
    batch_size: tuple[int, ...]

    @staticmethod
    def of(
        optimizer: str,
        learning_rate: tuple[float, float] | None,
        weight_decay: tuple[float, float] | None,
        batch_size: tuple[int, ...] | None,
    ) -> Space:
        """Return a search space. None stands for the default range, which for the learning rate depends on `optimizer`.

        Raises UserError for an invalid range or batch size.
        """
        usual = _RATES["sgd" if optimizer.lower() in ("sgd", "sgdw", "momentum", "nesterov") else "other"]
        space = Space(learning_rate or usual, weight_decay or (1e-6, 0.1), batch_size or (32, 64, 128))
        for name in ("learning_rate", "weight_decay"):
            low, high = getattr(space, name)
            if not 0 < low <= high:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}-range {low:g} {high:g}: give a minimum above 0, then the maximum")
        if min(space.batch_size) < 1:
            raise UserError(f"--batch-sizes {min(space.batch_size)}: give sizes of at least 1")
        return space

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Let Optuna choose the settings of `trial`, and return them."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *self.weight_decay, log=True),
            "batch_size": trial.suggest_categorical("batch_size", self.batch_size),
        }

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the learning rate, weight decay and batch size in `settings` are all within this space."""
        ranged = ("learning_rate", "weight_decay")
        inside = all(getattr(self, name)[0] <= settings[name] <= getattr(self, name)[1] for name in ranged)
        return inside and settings["batch_size"] in self.batch_size


def open_study(out: Path, space: Space, pruner: str, seed: int, settings: Mapping[str, Any]) -> optuna.Study:
    """Return the study in the folder `out`. If there is none, create it.

    `space`: the search space. `pruner`: "median", "hyperband" or "none". `seed`: the sampler's seed. `settings`: the
    settings that all trials share. Raises UserError for an unknown pruner, and if the study's earlier trials had other
    settings, because new trials could not be compared with these.
    """
    import optuna

    if pruner not in PRUNERS:
        raise UserError(f"--pruner {pruner} is not one of {', '.join(PRUNERS)}{nearest(pruner, list(PRUNERS))}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds: dict[str, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
        "hyperband": optuna.pruners.HyperbandPruner(),
        "none": optuna.pruners.NopPruner(),
    }
    relevant = {name: value for name, value in settings.items() if name not in _FREE}
    new = json.loads(json.dumps({**relevant, "batch_sizes": space.batch_size}))
    storage = f"sqlite:///{out.resolve() / STUDY}"
    study = _open(storage, kinds[pruner])
    old = study.user_attrs.get("settings", new)
    if old != new:
        if any(trial.intermediate_values for trial in study.trials):
            name = min(each for each in old.keys() | new.keys() if old.get(each) != new.get(each))
            raise UserError(
                f"{out / STUDY} was started with {name} = {old.get(name)!r}, not {new.get(name)!r}; give the same "
                "settings, or another --out"
            )
        optuna.delete_study(study_name=_NAME, storage=storage)  # no epoch was trained, so nothing is lost
        shutil.rmtree(out / TRIALS, ignore_errors=True)
        study = _open(storage, kinds[pruner])
    study.set_user_attr("settings", new)
    # A sampler with the same seed would draw the same settings again when the study continues.
    study.sampler = optuna.samplers.TPESampler(seed=(seed + len(study.trials)) % 2**32, n_startup_trials=5)
    return study


def _open(storage: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    import optuna

    return optuna.create_study(
        storage=storage, study_name=_NAME, direction="maximize", pruner=pruner, load_if_exists=True
    )


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Create the folder `out` if it is missing, and lock it in this context, so that no other `tune` uses it.

    Raises UserError if another `tune` is running there, or if the disk is full.
    """
    try:
        make_folder(out)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise of_os(error, out, "choose another --out") from error
    with file:
        if not lock(file.fileno()):
            raise UserError(f"{out}: another `fasttrain tune` is running there; give another --out")
        try:
            yield
        except Exception as error:
            if (refused := fixable(error, None if isinstance(error, OSError) else out / STUDY)) is not None:
                raise UserError(f"{refused}; then run the same command again to continue") from error
            raise
        finally:
            unlock(file.fileno())
