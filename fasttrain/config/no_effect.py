"""Find the settings that other settings make useless, to warn about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fasttrain.config.location import is_url
from fasttrain.config.recipes import recipe_defaults, recipe_of
from fasttrain.config.schema import NEEDS_STEPS, TrainConfig
from fasttrain.config.values import usual_warmup


class NoEffect(NamedTuple):
    """A rule: the settings `names` have no effect if `applies` returns True for a run's settings.

    `cause`: the setting that makes `names` useless. `why`: the explanation for the user.
    """

    names: tuple[str, ...]
    cause: str
    applies: Callable[[TrainConfig], bool]
    why: str


_RULES = (
    NoEffect(
        NEEDS_STEPS, "linear_probe", lambda run: run.linear_probe, "the head is solved for without gradient steps"
    ),
    NoEffect(
        ("label_smoothing",), "linear_probe", lambda run: run.linear_probe, "the L2 penalty alone regularizes the head"
    ),
    NoEffect(
        ("loss", "focal_gamma", "label_smoothing"),
        "teacher",
        lambda run: run.teacher is not None and run.teacher_weight == 1,
        "teacher_weight = 1 ignores the labels",
    ),
    NoEffect(
        ("warmup_epochs",),
        "scheduler",
        lambda run: run.scheduler != "cosine" and run.warmup_epochs > 0,
        "only cosine has a warm-up",
    ),
    NoEffect(("patience", "factor"), "scheduler", lambda run: run.scheduler != "plateau", "only plateau uses these"),
    NoEffect(("focal_gamma",), "loss", lambda run: run.loss != "focal", "only the focal loss uses this"),
    NoEffect(
        ("teacher_temperature", "teacher_weight"), "teacher", lambda run: run.teacher is None, "there is no teacher"
    ),
    NoEffect(
        ("momentum",), "optimizer", lambda run: not _has_momentum(run.optimizer), "this optimizer has no momentum"
    ),
    NoEffect(("amp_dtype",), "amp", lambda run: not run.amp, "mixed precision is off"),
    NoEffect(("compile_mode",), "compile", lambda run: run.compile == "off", "nothing is compiled"),
    NoEffect(("cache_size",), "data", lambda run: not is_url(run.data), "the data are on this machine already"),
    NoEffect(("experiment", "run_name"), "track", lambda run: not run.track, "nothing is tracked"),
)


def without_effect(config: TrainConfig) -> list[tuple[str, str]]:
    """Return a pair (cause, warning) for each group of settings that the user has changed without effect on the run.

    The cause is the setting that makes the group useless. The warning lists the group's values and explains why. Each
    setting is in at most one group. Values that the recipe has chosen are ignored.
    """
    given = config.plain()
    recipe = recipe_of(given)
    chosen = recipe_defaults(recipe, {**given, "linear_probe": False}) if recipe else {}
    lines: list[tuple[str, str]] = []
    reported: set[str] = set()
    for names, cause, applies, why in _RULES:
        changed = [
            name
            for name in config.changed(names)
            if name not in reported and chosen.get(name, ...) != given.get(name) and not _usual_warmup(name, config)
        ]
        if changed and applies(config):
            reported.update(changed)
            values = ", ".join(f"{name}={getattr(config, name)}" for name in changed)
            lines.append((cause, f"{values} {'is' if len(changed) == 1 else 'are'} not used, as {why}"))
    return lines


def _usual_warmup(name: str, config: TrainConfig) -> bool:
    """Return whether `name` is the warm-up and has its default, or the one that a plan of `minutes` has chosen."""
    usual = usual_warmup(config.epochs - config.head_epochs, head_first=config.head_epochs > 0)
    return name == "warmup_epochs" and (config.minutes is not None or config.warmup_epochs == usual)


def _has_momentum(optimizer: str) -> bool:
    """Return whether timm passes `momentum` to the optimizer of this name, or True if timm doesn't know the name."""
    from timm.optim import get_optimizer_info, list_optimizers

    kind = optimizer.lower().removeprefix("lookahead_")
    return kind not in list_optimizers() or bool(get_optimizer_info(kind).has_momentum)
