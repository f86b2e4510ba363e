"""`TrainConfig`: all settings of a training run, in the groups of `config.groups`.

The command line, the TOML file, MLflow's parameters and the reference in the docs are all generated from this class.
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
"""Settings that make the head train on photographs instead of cached features during `head_epochs`."""

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

_NOT_WITH_MINUTES = {
    "eval_size": "which chooses the training size itself; give image_size for the size of evaluation",
    "refit": "whose time is used up once the best epoch is known; use one of them",
    "folds": "which plans a single run; start one run per fold with fold = 1/5, 2/5, …",
}
"""Settings that can't be combined with `minutes`, and why."""

_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


# The bases are in reverse order because pydantic collects the fields from the last base to the first.
class TrainConfig(
    RunSettings, HardwareSettings, OptimizationSettings, ModelSettings, AugmentationSettings, DataSettings
):
    """All settings of `fasttrain train`.

    Raises pydantic.ValidationError for invalid settings; `config.load` turns it into a one-line UserError.
    """

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
                f"scheduler = 'plateau' follows the validation loss, and can't fit into minutes = {self.minutes:g}; "
                "use cosine or onecycle"
            )
        if self.minutes is not None and (other := self.changed(_NOT_WITH_MINUTES)):
            raise ValueError(
                f"{other[0]} = {self.plain()[other[0]]!r} can't be combined with minutes = {self.minutes:g}, "
                f"{_NOT_WITH_MINUTES[other[0]]}"
            )
        if self.refit and (other := self.changed(("head_epochs", "average"))):
            raise ValueError(
                f"{other[0]} = {self.plain()[other[0]]!r} can't be combined with refit, which has no validation to "
                "choose weights by; use one of them"
            )
        if self.linear_probe and is_own(self.model):
            raise ValueError(
                f"linear_probe works with timm's models only, not with your own model = {self.model}; freeze layers in "
                "your function instead"
            )
        if self.linear_probe and (changed := self.changed(NEEDS_PIXELS)):
            name = changed[0]
            raise ValueError(
                f"{name} = {self.plain()[name]!r} can't be combined with linear_probe, which trains the head on cached "
                "features; leave one of them out"
            )
        return self

    @property
    def monitored(self) -> Monitor:
        """Return the metric that chooses the best epoch.

        For "auto" it is top1, until a run on multi-label data replaces "auto" by "map".
        """
        return MONITORS["top1" if self.monitor == "auto" else self.monitor]

    @property
    def freezes_statistics(self) -> bool:
        """Return whether BatchNorm's running statistics stay fixed while the entire model trains.

        They do if `freeze_bn` is "on", or if it is "auto" and `head_epochs` is above 0.
        """
        return self.freeze_bn == "on" or (self.freeze_bn == "auto" and self.head_epochs > 0)

    def plain(self) -> dict[str, str | int | float | bool | list[float]]:
        """Return the settings as plain data for TOML and JSON: paths are strings, and settings of None are left out."""
        return self.model_dump(mode="json", exclude_none=True)
