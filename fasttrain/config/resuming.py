"""Rules for settings that are given with `--resume`: each takes effect, can't change, or applies to one call only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from fasttrain.config.model_name import is_object, is_own
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError


class OnResume(Enum):
    """The kinds of rules for a setting that is given when a run is resumed.

    `EFFECT`: the new value takes effect. `FIXED`: the setting can't change. `CALL`: the setting applies to one call
    only. The enum's values are the headings of the documentation's tables.
    """

    EFFECT = "how the new value takes effect"
    FIXED = "why it can't change"
    CALL = "what it does in this call"


@dataclass(frozen=True)
class Rule:
    """The rule for one setting when a run is resumed.

    explanation: how the new value takes effect; if `kind` is `FIXED`, why it can't change and what to do instead.
    may_change: called with the old and the new value of a `FIXED` setting. It returns True if this change is allowed.
    """

    kind: OnResume
    explanation: str = ""
    may_change: Callable[[Any, Any], bool] = lambda old, new: False


def _effect(explanation: str = "") -> Rule:
    return Rule(OnResume.EFFECT, explanation)


def _call(explanation: str) -> Rule:
    return Rule(OnResume.CALL, explanation)


_NEW_RUN = "start a new run from its weights: --weights RUN/model.safetensors"
_EVALUATED = f"epochs can't be compared if validation sees other parts of the photographs; {_NEW_RUN}"
_AUGMENTED = "from the next batch on"
_MOMENTS = "the optimizer keeps its moments of the parameters that trained before"

RULES: dict[str, Rule] = {
    # data
    "data": _effect("the data may have moved; data with another fingerprint are refused"),
    "cache_size": _effect(),
    "loader": _effect("all loaders give the same photographs, crops and flips"),
    "workers": _effect(),
    "shuffle": Rule(OnResume.FIXED, f"the order of an epoch's photographs depends on it; {_NEW_RUN}"),
    "sampling": Rule(OnResume.FIXED, f"an epoch's photographs depend on it; {_NEW_RUN}"),
    "on_bad_sample": _effect(),
    "image_size": Rule(
        OnResume.FIXED, f"epochs that are validated at different sizes can't be compared for the best one; {_NEW_RUN}"
    ),
    "eval_size": Rule(
        OnResume.FIXED, f"epochs that are validated at different sizes can't be compared for the best one; {_NEW_RUN}"
    ),
    "crop_pct": Rule(OnResume.FIXED, _EVALUATED),
    "resize_mode": Rule(OnResume.FIXED, _EVALUATED),
    "crop_scale": _effect(_AUGMENTED),
    "interpolation": Rule(
        OnResume.FIXED,
        f"epochs that are validated with different filters can't be compared (auto keeps the run's filter); {_NEW_RUN}",
    ),
    "hflip": _effect(_AUGMENTED),
    "vflip": _effect(_AUGMENTED),
    "progressive": _effect("from the current epoch on"),
    "limit_batches": Rule(
        OnResume.FIXED, f"epochs that are validated on different photographs can't be compared; {_NEW_RUN}"
    ),
    # augmentation
    "color_jitter": _effect(_AUGMENTED),
    "rand_augment": _effect(_AUGMENTED),
    "trivial_augment": _effect(_AUGMENTED),
    "random_erasing": _effect(_AUGMENTED),
    "mixup": _effect(_AUGMENTED),
    "cutmix": _effect(_AUGMENTED),
    # model
    "model": Rule(
        OnResume.FIXED,
        "the checkpoint has the weights of the old model; leave it out, or start a new run. A model of your own that "
        "was passed as an object may be given by its import path, or the reverse",
        may_change=lambda old, new: is_own(old) and is_own(new) and is_object(old) != is_object(new),
    ),
    "pretrained": Rule(OnResume.FIXED, "a resumed run has its checkpoint's weights; leave it out, or start a new run"),
    "weights": Rule(OnResume.FIXED, "a resumed run has its checkpoint's weights; leave it out, or start a new run"),
    "freeze": _effect(f"blocks are frozen or trained from the next step on; {_MOMENTS}"),
    "freeze_bn": _effect("from the next step on, with the statistics as they are then"),
    "linear_probe": Rule(
        OnResume.FIXED,
        "it can only be switched off, and the run then continues by fine-tuning, which changes the features; to switch "
        f"it on, {_NEW_RUN} --linear-probe",
        may_change=lambda old, new: not new,
    ),
    "drop_rate": _effect(),
    "drop_path": _effect(),
    # optimization
    "recipe": Rule(OnResume.FIXED, "it sets the defaults of a new run; give the settings that you want to change"),
    "epochs": _effect(
        "the learning rate continues as if the run had been started with this number; "
        "a linear probe tries the penalties of this number that it hasn't tried"
    ),
    "minutes": Rule(
        OnResume.FIXED,
        "the plan is made when a run begins. A run that has one may get more or less time, up to its planned epochs",
        may_change=lambda old, new: old is not None and new is not None,
    ),
    "head_epochs": Rule(OnResume.FIXED, f"the optimizer and the schedule start after these epochs; {_NEW_RUN}"),
    "batch_size": _effect("auto keeps the number that the run was started with"),
    "grad_accumulation": _effect(),
    "optimizer": _effect("the new optimizer's moments begin at zero"),
    "learning_rate": _effect(
        "plateau: the new value becomes the current rate; cosine and one-cycle are scaled to the new value"
    ),
    "weight_decay": _effect(),
    "layer_decay": _effect(_MOMENTS),
    "momentum": _effect(),
    "scheduler": _effect(
        "cosine and one-cycle start at the current part of the run, plateau and constant at the learning rate"
    ),
    "warmup_epochs": _effect("as if the run had been started with the new value"),
    "patience": _effect(),
    "factor": _effect("from the next drop of the rate on"),
    "monitor": Rule(
        OnResume.FIXED,
        f"the weights of the epoch that another metric would have chosen may be gone; {_NEW_RUN}",
    ),
    "early_stopping": _effect(
        "epochs without improvement so far count; if early stopping had ended the run, more epochs restart the count"
    ),
    "loss": _effect(),
    "focal_gamma": _effect(),
    "teacher": Rule(
        OnResume.FIXED,
        "adding or removing a teacher changes the loss; leave it out, or start a new run. The path of the same teacher "
        "may change: its tensors are compared",
        may_change=lambda old, new: old is not None and new is not None,
    ),
    "teacher_temperature": _effect(),
    "teacher_weight": _effect(),
    "label_smoothing": _effect(),
    "class_weights": _effect(),
    "clip_grad": _effect(),
    "sam": _effect("from the next step on"),
    "ema_decay": _effect("if switched on, the average starts with the current weights"),
    "average": _effect(
        "of the earlier epochs, only those whose weights are in the checkpoint can be averaged, among them the best one"
    ),
    "refit": Rule(
        OnResume.FIXED,
        "it needs the run's initial weights, which are kept from the start or not at all; start a new run",
    ),
    "tta": _effect(),
    # machine
    "device": _effect(),
    "gpus": _effect("a step then has another number of photographs, as with another batch_size"),
    "amp": _effect(),
    "amp_dtype": _effect("fp16 starts with a new loss scale if the run had none"),
    "channels_last": _effect(),
    "sync_bn": _effect(),
    "compile": _effect(),
    "compile_mode": _effect(),
    "grad_checkpointing": _effect(),
    "seed": Rule(
        OnResume.FIXED, "the order of the photographs and their crops depend on it; leave it out, or start a new run"
    ),
    "deterministic": _effect(),
    # the run
    "out": _call("the folder that `--resume auto` searches; the run stays in its folder"),
    "save_every": _effect(),
    "keep": _effect(),
    "folds": _call("starts new folds, or resumes those in the folder that `--resume` names"),
    "fold": Rule(OnResume.FIXED, f"epochs that are validated on different photographs can't be compared; {_NEW_RUN}"),
    "profile": _call("traces the first epoch of this call"),
    "explain": _effect("in the report at the end of the run"),
    "log_format": _effect(),
    "resume": _call("the run to resume"),
    "experiment": _effect("in a new MLflow run in that experiment, with the epochs so far"),
    "run_name": _call("renames the MLflow run"),
    "track": _effect("a tracker that is added gets the epochs so far, too"),
}
"""The rule of each field of `TrainConfig`, in the order of the fields."""


def lasting(settings: dict[str, Any]) -> dict[str, Any]:
    """Return `settings` without those that apply to one call only, such as `resume`.

    A run's folder, its checkpoints and MLflow store the settings in this form.
    """
    return {name: each for name, each in settings.items() if name not in RULES or RULES[name].kind != OnResume.CALL}


def changes(then: TrainConfig, now: TrainConfig, checkpoint: Path) -> tuple[str, ...]:
    """Return a line "name: old -> new" for each setting that differs between a checkpoint and the run that resumes it.

    `then`: the settings in `checkpoint`. `now`: the settings of the resumed run. Raises UserError for the first setting
    that can't change.
    """
    before, after = lasting(then.plain()), lasting(now.plain())
    changed = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        rule = RULES[name]
        if rule.kind is OnResume.FIXED and not rule.may_change(old, new):
            explanation = rule.explanation.replace("RUN/", f"{checkpoint.parents[1]}/")
            raise UserError(f"{name} = {old} can't become {new} in the run of {checkpoint}: {explanation}")
        changed.append(f"{name}: {old} -> {new}")
    return tuple(changed)


def tables() -> list[str]:
    """Return the tables of docs/how-to/resume.md in Markdown, one for each kind of rule.

    Settings with the same explanation share a row. The advice to start a new run is left out, because the page gives it
    above the table.
    """
    found = []
    for kind in OnResume:
        rows: dict[str, list[str]] = {}
        for name, rule in RULES.items():
            if rule.kind is kind:
                explanation = rule.explanation.removesuffix(f"; {_NEW_RUN}") or "as in a new run"
                rows.setdefault(explanation, []).append(f"`{name}`")
        lines = [f"| {', '.join(names)} | {explanation} |" for explanation, names in rows.items()]
        found.append("\n".join([f"| setting | {kind.value} |", "| --- | --- |", *lines]))
    return found
