"""Replay the step at which a run diverged, in fp32 and in the run's precision, and inspect every module."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasttrain.augment.augmentation import Augmentation
from fasttrain.config.load import resolve
from fasttrain.config.schema import TrainConfig
from fasttrain.device import choose_device, make_current
from fasttrain.errors import UserError
from fasttrain.model.batch_norm import running_statistics_if_lone
from fasttrain.model.criterion import validation_criterion
from fasttrain.model.factory import ModelSpec, create_model
from fasttrain.model.fold import fold_frozen
from fasttrain.model.freeze import keep_frozen
from fasttrain.model.input_size import img_size_for
from fasttrain.model.precision import make_precision
from fasttrain.training.diverged import DivergedStep
from fasttrain.training.finite import gradient_norm, non_finite
from fasttrain.training.phases import freeze_for, freeze_for_good
from fasttrain.training.setup import make_step
from fasttrain.training.state import FULL
from fasttrain.training.step import StepBatch
from fasttrain.training.teacher import load_teacher, require_same_teacher

_LISTED = 3  # the greatest activations and gradients that are reported
_WILD = 10  # a loss this many times that of random guessing means that the weights are far off


@dataclass(frozen=True)
class Named:
    """The name of a module or parameter, and the greatest magnitude of a finite value in its output or gradient.

    For a module the values are those of its output, for a parameter those of its gradient.
    """

    name: str
    value: float


@dataclass(frozen=True)
class Tried:
    """The result of the step in one precision.

    `gradient`: the norm of all gradients together; None for a validation. `module`: the first module whose output is
    not finite, or None if all outputs are finite. `fed`: the greatest magnitude in that module's input; NaN without
    `module`, or if the input is not finite either. `activations`, `gradients`: the modules and the parameters with the
    greatest values. `broken_gradients`: the parameters whose gradient is not finite. `samples`: the positions, in the
    step's last batch, of the samples that are not finite in the output of `module`; without `module`, of those whose
    loss is not finite. `losses`: the loss of each sample of that batch.
    """

    precision: str
    loss: float
    gradient: float | None
    module: str | None
    fed: float
    activations: list[Named]
    gradients: list[Named]
    broken_gradients: list[str]
    samples: list[int]
    losses: list[float]

    @property
    def finite(self) -> bool:
        """Return whether the loss, the gradient and all outputs are finite."""
        return math.isfinite(self.loss) and self.module is None and math.isfinite(self.gradient or 0.0)


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    `path`: the replayed file. `facts`: those of its `DivergedStep`. `batch`: the number of photographs in the step's
    last batch. `tried`: the results, in fp32 and, if it is another, in the run's precision. `keys`: the names, in the
    shards, of the suspicious photographs of that batch: those whose values are not finite or, if all are finite, those
    with the greatest losses. `why` and `fix`: the cause and the fix, a sentence each. `sheet`: a picture of these
    photographs, if one was written.
    """

    path: Path
    facts: dict[str, Any]
    batch: int
    tried: list[Tried]
    keys: list[str]
    why: str
    fix: str
    sheet: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the replay as JSON data. Numbers that are not finite become text, such as "nan"."""
        values = {**asdict(self), "path": str(self.path), "sheet": str(self.sheet) if self.sheet else None}
        plain: dict[str, Any] = _plain(values)
        return plain


def run_again(saved: DivergedStep, path: Path, device: str = "auto") -> Replay:
    """Replay the step `saved`, read from the file `path`, and return where its values stop being finite.

    Raises UserError for a step that trained a classifier on cached features, because only steps on photographs can be
    replayed.
    """
    if saved.facts["config"].get("linear_probe") or saved.facts.get("on_features"):
        raise UserError(
            f"{path}: the step trained a classifier on cached features; only steps on photographs can be replayed"
        )
    target = make_current(choose_device(device))
    tried = [_try(saved, precision, target) for precision in dict.fromkeys(("fp32", saved.facts["precision"]))]
    last = tried[-1]
    labels = saved.batches[-1][1]
    keys: list[str] = saved.facts["keys"][-len(labels) :]
    guilty = last.samples or np.argsort(last.losses)[::-1][:_LISTED].tolist()
    why, fix = _explain(saved, tried)
    return Replay(path, saved.facts, len(labels), tried, [keys[each] for each in guilty], why, fix)


@dataclass
class _Seen:
    """Values recorded by the hooks in one forward pass."""

    module: str | None = None
    fed: float = math.nan
    rows: list[int] = field(default_factory=list)
    outputs: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Record the output of the module `name`, and its input if the output is the first that is not finite."""
        if not isinstance(output, torch.Tensor) or not output.is_floating_point() or not output.numel():
            return
        fine = torch.isfinite(output)
        self.outputs[name] = _greatest(output)
        if self.module is None and not fine.all():
            self.module = name
            given = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
            self.fed = float(given.detach().abs().max()) if given is not None and given.numel() else math.nan
            rows = fine.flatten(1).all(1) if fine.ndim > 1 else fine
            self.rows = (~rows).nonzero().flatten().tolist()


def _try(saved: DivergedStep, precision_name: str, device: torch.device) -> Tried:
    """Run the step `saved` in one precision and return what was found."""
    training = saved.facts["kind"] != "validation"
    config = _config(saved)
    spec = _spec(saved, config)
    model = _model(saved, config, device)
    frozen = freeze_for_good(model, config)
    phase = saved.facts.get("phase", FULL)
    _, waiting = freeze_for(model, phase)
    precision = make_precision(precision_name, model, device)
    ids = torch.cat([ids for _, _, ids in saved.batches]).numpy()
    teacher = load_teacher(config, spec, precision.name, device) if training else None
    require_same_teacher(teacher, saved.facts, "the run")
    step = make_step(
        config,
        precision,
        spec,
        device=device,
        ids=ids,
        frozen=[*frozen, *waiting],
        class_weights=saved.class_weights,
        teacher=teacher,
    )
    fold_frozen(model, frozen)
    model.train(training)
    if training:
        keep_frozen(step.frozen)
    else:
        step = replace(step, criterion=validation_criterion(multi_label=spec.multi_label), augmentation=Augmentation())
    scale = float(saved.facts["scale"]) if precision.name == saved.facts["precision"] else 1.0
    batches = [StepBatch(*parts, begin=0, end=0) for parts in saved.batches]
    _, weight = step.size(batches)
    seen = _Seen()
    for batch in batches:
        if batch is batches[-1]:
            _restore_generators(saved.rng, device)
        seen = _Seen()
        lone = running_statistics_if_lone(model, len(batch.labels), int(config.batch_size))
        with lone, torch.set_grad_enabled(training):
            with _watched(model, seen):
                loss, logits, targets = step.loss(model, batch, saved.facts["epoch"])
            if training:
                (loss * (step.size([batch])[1] / weight) * scale).backward()
    each_loss = copy(step.criterion)
    each_loss.reduction = "none"
    with torch.no_grad(), step.autocast():
        losses = each_loss(logits, targets).float().tolist()
    gradients: dict[str, torch.Tensor] = {}
    for name, each in model.named_parameters():
        if each.grad is not None:
            gradients[name] = each.grad.div_(scale)
    return Tried(
        precision=precision.name,
        loss=float(loss.detach()),
        gradient=float(gradient_norm(model.parameters())) if training else None,
        module=seen.module,
        fed=seen.fed,
        activations=_most(seen.outputs),
        gradients=_most({name: _greatest(each) for name, each in gradients.items() if each.isfinite().any()}),
        broken_gradients=non_finite(gradients),
        samples=seen.rows or [row for row, value in enumerate(losses) if not math.isfinite(value)],
        losses=losses,
    )


def _config(saved: DivergedStep) -> TrainConfig:
    # A recipe would fill in settings that the run left unset.
    return resolve({name: value for name, value in saved.facts["config"].items() if name != "recipe"})


def _spec(saved: DivergedStep, config: TrainConfig) -> ModelSpec:
    facts = saved.facts
    return ModelSpec(
        config.model,
        tuple(facts["classes"]),
        config.geometry,
        tuple(facts["mean"]),
        tuple(facts["std"]),
        multi_label=bool(facts.get("multi_label")),
    )


def _model(saved: DivergedStep, config: TrainConfig, device: torch.device) -> torch.nn.Module:
    img_size = img_size_for(config.model, config.image_size)
    model = create_model(
        config.model,
        len(saved.facts["classes"]),
        drop_rate=config.drop_rate,
        drop_path=config.drop_path,
        img_size=img_size,
    )
    try:
        model.load_state_dict(saved.weights)
    except RuntimeError as error:
        raise UserError(
            f"the saved weights do not fit {config.model} as the installed timm builds it; install the version of timm "
            "that the run was trained with"
        ) from error
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


@contextmanager
def _watched(model: torch.nn.Module, seen: _Seen) -> Iterator[None]:
    # A module's hook runs after those of its submodules, so the first that notices is the innermost.
    handles = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.note(name or "the model itself", inputs, output)
        )
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _restore_generators(rng: tuple[torch.Tensor, ...], device: torch.device) -> None:
    if rng:
        torch.set_rng_state(rng[0])
    if len(rng) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(rng[1], device)


def _greatest(values: torch.Tensor) -> float:
    return float(torch.nan_to_num(values.detach().float(), 0.0, 0.0, 0.0).abs().max())


def _most(values: dict[str, float]) -> list[Named]:
    ordered = sorted(values.items(), key=lambda each: each[1], reverse=True)
    return [Named(name, value) for name, value in ordered[:_LISTED]]


def _explain(saved: DivergedStep, tried: list[Tried]) -> tuple[str, str]:
    """Return why the step is not finite, and how to fix it."""
    facts, full, own = saved.facts, tried[0], tried[-1]
    rate = float(facts["config"]["learning_rate"])
    lower = f"lower --learning-rate ({rate:g}) to {rate / 10:g}, or warm it up (--scheduler cosine --warmup-epochs 1)"
    if broken := facts["broken_weights"]:
        named = broken[0] + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
        if facts["step"] == 0:
            return f"the weights that the run began with are not finite ({named})", "give other --weights"
        return f"the weights were already not finite before this step ({named})", f"{lower}, or set --clip-grad 1"
    if facts["kind"] == "validation" and (broken := facts["broken_buffers"]):
        return f"BatchNorm's running statistics are not finite ({broken[0]})", f"{lower}, or set --clip-grad 1"
    if full.finite and not own.finite:
        place = own.module or (own.broken_gradients[-1:] or ["the loss"])[0]
        most = f", which is fed values up to {own.fed:.3g}" if math.isfinite(own.fed) else ""
        why = f"the step's values are finite in fp32; {own.precision} overflows at {place}{most}"
        # fp16 is also the fallback for bf16 on a GPU without it.
        asked_for = own.precision == "fp16" and facts["config"].get("amp_dtype") == "fp16"
        fix = "use --amp-dtype bf16" if asked_for else "train with --no-amp"
        if full.loss > _WILD * math.log(len(facts["classes"])):
            fix += f", and {lower}: in fp32 the loss is {full.loss:.3g}"
        return why, fix
    if own.finite:
        why = "all values are finite when the step is replayed from the saved weights, without torch.compile"
        return (
            why,
            "try --compile off and --deterministic; if it happens again at other steps, test the machine's memory",
        )
    if own.module is not None:
        fed = f", which is fed values up to {own.fed:.3g}" if math.isfinite(own.fed) else ""
        return (
            f"the values overflow at {own.module}{fed}: the weights have grown too far",
            f"{lower}, or set --clip-grad 1",
        )
    if not math.isfinite(own.loss):
        return "the logits are finite, but too far apart for a finite loss", f"{lower}, or set --clip-grad 1"
    place = (own.broken_gradients[-1:] or ["the sum of all squares"])[0]
    return f"the loss is finite, but the gradient overflows at {place}", lower


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
