"""Settings that have no effect beside others, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fasttrain.config.location import is_url
from fasttrain.config.recipes import recipe_defaults, recipe_of
from fasttrain.config.schema import NEEDS_STEPS, TrainConfig


class NoEffect(NamedTuple):
    """The settings `names`, which do nothing `when` this is true of the run; `cause` is the setting that it lies in."""

    names: tuple[str, ...]
    cause: str
    when: Callable[[TrainConfig], bool]
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
        "teacher_weight = 1 leaves the labels out",
    ),
    NoEffect(
        ("warmup_epochs",),
        "scheduler",
        lambda run: run.scheduler != "cosine" and run.warmup_epochs > 0,
        "cosine alone warms up",
    ),
    NoEffect(("patience", "factor"), "scheduler", lambda run: run.scheduler != "plateau", "plateau alone takes them"),
    NoEffect(("focal_gamma",), "loss", lambda run: run.loss != "focal", "the focal loss alone takes it"),
    NoEffect(
        ("teacher_temperature", "teacher_weight"), "teacher", lambda run: run.teacher is None, "there is no teacher"
    ),
    NoEffect(("momentum",), "optimizer", lambda run: not _has_momentum(run.optimizer), "this one has no such setting"),
    NoEffect(("amp_dtype",), "amp", lambda run: not run.amp, "mixed precision is off"),
    NoEffect(("compile_mode",), "compile", lambda run: run.compile == "off", "nothing is compiled"),
    NoEffect(("cache_size",), "data", lambda run: not is_url(run.data), "the data are on this machine already"),
    NoEffect(("experiment", "run_name"), "track", lambda run: not run.track, "nothing is tracked"),
)


def without_effect(config: TrainConfig) -> list[tuple[str, str]]:
    """Return (cause, line) for the changed settings that have no effect in the run; each setting is in one line.

    A value that the recipe has chosen is not the user's, and is left out.
    """
    given = config.plain()
    recipe = recipe_of(given)
    chosen = recipe_defaults(recipe, {**given, "linear_probe": False}) if recipe else {}
    lines: list[tuple[str, str]] = []
    told: set[str] = set()
    for names, cause, when, why in _RULES:
        changed = [
            name for name in config.changed(names) if name not in told and chosen.get(name, ...) != given.get(name)
        ]
        if changed and when(config):
            told.update(changed)
            values = ", ".join(f"{name}={getattr(config, name)}" for name in changed)
            lines.append((cause, f"not used, as {why}: {values}"))
    return lines


def _has_momentum(optimizer: str) -> bool:
    """Return whether timm passes `momentum` to its optimizer of that name; True for a name that it doesn't know."""
    from timm.optim import get_optimizer_info, list_optimizers

    kind = optimizer.lower().removeprefix("lookahead_")
    return kind not in list_optimizers() or bool(get_optimizer_info(kind).has_momentum)
