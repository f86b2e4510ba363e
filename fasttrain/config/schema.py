"""`TrainConfig`: every setting of a training run, in the groups of `config.groups`.

The command line, the TOML file, MLflow's parameters and the reference are all made from this class.
"""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from fasttrain.config.groups import (
    AugmentationSettings,
    DataSettings,
    HardwareSettings,
    ModelSettings,
    OptimizationSettings,
    RunSettings,
)
from fasttrain.config.model_name import is_own
from fasttrain.config.monitor import MONITORS, Monitor
from fasttrain.config.recipes import recipe_defaults, recipe_of

HEAD_NEEDS_PIXELS = (*AugmentationSettings.model_fields, "progressive", "on_bad_sample", "teacher")
"""Settings with which the head trains on photographs in the epochs of `head_epochs`, in place of cached features."""

NEEDS_PIXELS = (
    *HEAD_NEEDS_PIXELS,
    *("vflip", "tta", "freeze", "freeze_bn", "layer_decay", "grad_checkpointing", "head_epochs", "refit"),
)
"""Settings that must keep their defaults under `linear_probe`, where only the head trains, on features."""

NEEDS_STEPS = (
    *("optimizer", "learning_rate", "weight_decay", "momentum", "scheduler", "warmup_epochs", "patience", "factor"),
    *("grad_accumulation", "clip_grad", "sam", "ema_decay", "average", "drop_rate", "drop_path", "profile"),
)
"""Settings that `linear_probe` ignores: it solves for the head directly, without gradient steps."""

_UNPLANNED = {
    "eval_size": "which chooses the size to train at; give image_size, which is evaluated",
    "refit": "whose time is over once the best epoch is known; use one of them",
    "folds": "which plans one run; give fold, as 1/5, to one run after another",
}
"""Settings that `minutes` has no plan for, and why."""

_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


# pydantic collects the fields from the last base to the first.
class TrainConfig(
    RunSettings, HardwareSettings, OptimizationSettings, ModelSettings, AugmentationSettings, DataSettings
):
    """All settings of `fasttrain train`. Raises pydantic.ValidationError; `config.load` turns that into one line."""

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, given: Any) -> Any:
        if isinstance(given, dict) and (recipe := recipe_of(given)) is not None:
            return {**recipe_defaults(recipe, given), **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.grad_accumulation > 1 and self.compile != "off" and self.compile_mode in _CUDA_GRAPHS:
            raise ValueError(
                f"compile_mode = '{self.compile_mode}': CUDA graphs overwrite the gradients that grad_accumulation = "
                f"{self.grad_accumulation} keeps; use 'max-autotune-no-cudagraphs'"
            )
        if self.minutes is not None and self.scheduler == "plateau":
            raise ValueError(
                f"scheduler = 'plateau' follows the validation loss, not the time of minutes = {self.minutes:g}; use "
                "cosine or onecycle"
            )
        if self.minutes is not None and (other := self.changed(_UNPLANNED)):
            raise ValueError(
                f"{other[0]} = {self.plain()[other[0]]!r} does not go with minutes = {self.minutes:g}, "
                f"{_UNPLANNED[other[0]]}"
            )
        if self.refit and (other := self.changed(("head_epochs", "average"))):
            raise ValueError(
                f"{other[0]} = {self.plain()[other[0]]!r} does not go with refit, which has no validation to choose "
                "weights by; use one of them"
            )
        if self.linear_probe and is_own(self.model):
            raise ValueError(f"linear_probe is for timm's models, not {self.model}; freeze its body in your function")
        if self.linear_probe and (changed := self.changed(NEEDS_PIXELS)):
            name = changed[0]
            raise ValueError(
                f"{name} = {self.plain()[name]!r} does not go with linear_probe, whose head sees features only"
            )
        return self

    @property
    def monitored(self) -> Monitor:
        """Return the metric that chooses the best epoch; top1 for "auto", until the data is known."""
        return MONITORS["top1" if self.monitor == "auto" else self.monitor]

    @property
    def freezes_statistics(self) -> bool:
        """Return whether BatchNorm keeps its running statistics while everything trains."""
        return self.freeze_bn == "on" or (self.freeze_bn == "auto" and self.head_epochs > 0)

    def plain(self) -> dict[str, str | int | float | bool | list[float]]:
        """Return the settings as TOML and JSON can hold them: paths as strings, unset ones left out."""
        return self.model_dump(mode="json", exclude_none=True)
