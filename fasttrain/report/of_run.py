"""Make the report of a run or of an evaluation from its results."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.config.model_name import is_object
from fasttrain.report.html import Report
from fasttrain.report.photographs import BatchPicture, Picture, worst_classes
from fasttrain.report.summary import is_probe, percent, split_title, throughput, time_of
from fasttrain.report.verdict import baseline_warning
from fasttrain.version import __version__

if TYPE_CHECKING:
    import torch

    from fasttrain.config.schema import TrainConfig
    from fasttrain.evaluation.evaluate import Predictions
    from fasttrain.evaluation.label_sets import SetEvaluation, SetPredictions
    from fasttrain.evaluation.metrics import Evaluation
    from fasttrain.model.factory import ModelSpec
    from fasttrain.shards.reader import ShardSet
    from fasttrain.training.result import TrainResult

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "mlflow")


_REFITTED = "on train and val, so these weights have no validation metrics and are evaluated on the test split only"


def report_of_run(
    result: TrainResult,
    predictions: Predictions | SetPredictions,
    *,
    split: str,
    config: TrainConfig,
    shards: ShardSet,
    spec: ModelSpec,
    model: torch.nn.Module,
    loader: str,
    device: torch.device,
    ranks: int = 1,
    store: str | None = None,
    batch: Sequence[BatchPicture] = (),
    warning: str | None = None,
    mistakes: tuple[int, str] | None = None,
    maps: Callable[[int, int], Picture] | None = None,
) -> Report:
    """Return the report of a finished run.

    `split`: the split that was evaluated last. `spec`, `model`: the trained model. `loader`: the loader's name.
    `ranks`: the number of ranks. `store`: the location of MLflow's store, if any. `batch`: pictures of the first batch.
    `warning`, `mistakes`: see `Report`. `maps`: draws the class-activation map of a sample for a class, see
    `mistake_maps`; None draws none. Raises UserError or OSError if the photographs of mistakes can't be read.
    """
    history = result.history
    seconds = sum(record["epoch_seconds"] for record in history)
    waited = sum(record["wait_share"] * record["epoch_seconds"] for record in history)
    waiting = waited / seconds if seconds else 0.0
    rate = throughput(history)
    count = sum(parameter.numel() for parameter in model.parameters())
    probe, best = is_probe(history), f"{result.best_epoch} of {len(history)}, {result.chosen_by}"
    facts = [
        *(_probe_facts(result) if probe else [("best epoch", best)]),
        *([("refit", _REFITTED)] if result.refit_epochs else []),
        *([("weights", result.averaged.description)] if result.averaged is not None else []),
        *([] if probe else _phase_facts(history)),
        ("time", time_of(result)),
        *([] if probe else [("training speed", f"{rate:,.0f} images/s"), ("waiting for data", percent(waiting))]),
        ("model", f"{spec.name}, {count / 1e6:.1f} M parameters"),
        ("image size", _image_size(config, spec)),
        *_data_facts(shards),
        ("loader", loader),
        ("device", _device(device) + (f", {ranks} ranks" if ranks > 1 else "")),
    ]
    if store is not None:
        facts += [("MLflow run", result.mlflow_run_id or "not yet made"), ("MLflow store", store)]
    run, data = shlex.quote(str(result.folder)) + _made_by(spec), shlex.quote(str(config.data))
    more = f"--epochs {len(history) * 2}" + (f" --minutes {2 * config.minutes:g}" if config.minutes else "")
    commands = [
        ("Evaluate the model again", f"fasttrain evaluate --checkpoint {run} --data {data} --split {split}"),
        ("Predict", f"fasttrain predict --checkpoint {run} photograph.jpg"),
    ]
    if config.linear_probe and config.minutes is None:
        tuned = f"fasttrain train --resume {run} --no-linear-probe --epochs {len(history) + 5}"
        commands.append(("Train the entire model from these weights, for five epochs", tuned))
    elif not probe and not result.refit_epochs:
        commands.append(("Train the model for more epochs", f"fasttrain train --resume {run} {more}"))
    settings = config.plain()
    return Report(
        title=config.run_name or result.folder.name,
        subtitle=(f"{result.folder.name} · " if config.run_name else "") + _subtitle(spec),
        split=split,
        evaluation=result.evaluation,
        predictions=predictions,
        worst=worst_classes(result.evaluation, predictions, shards, maps=maps),
        history=history,
        best_epoch=result.best_epoch,
        weights=f"classifier of try {result.best_epoch}" if probe else result.weights_text,
        facts=facts,
        commands=commands,
        batch=batch,
        batch_note="" if probe else _batch_note(config, shown=len(batch)),
        config=settings,
        changed=config.changed(settings),
        versions=versions(device),
        temperature=spec.temperature,
        warning=warning,
        mistakes=mistakes,
    )


def report_of_evaluation(
    evaluation: Evaluation | SetEvaluation,
    predictions: Predictions | SetPredictions,
    *,
    checkpoint: Path,
    data: str | Path,
    split: str,
    shards: ShardSet,
    spec: ModelSpec,
    device: torch.device,
    mistakes: tuple[int, str] | None = None,
    maps: Callable[[int, int], Picture] | None = None,
) -> Report:
    """Return the report of an evaluation, which has no sections about training.

    `data`: the data's location. `split`: the evaluated split, or "all". `mistakes`: see `Report`. `maps`: draws the
    class-activation map of a sample for a class: see `mistake_maps`. None draws no maps.
    """
    facts = [
        ("checkpoint", str(checkpoint)),
        ("model", spec.name),
        ("image size", str(spec.geometry)),
        ("data", str(data)),
        ("photographs", f"{evaluation.samples:,}, {split_title(split)}"),
        ("device", _device(device)),
    ]
    if left_out := shards.left_out():
        facts.append(("not evaluated", left_out))
    quoted = shlex.quote(str(checkpoint)) + _made_by(spec)
    return Report(
        title=f"{checkpoint.name} on {split_title(split)}",
        subtitle=_subtitle(spec),
        split=split,
        evaluation=evaluation,
        predictions=predictions,
        worst=worst_classes(evaluation, predictions, shards, maps=maps),
        facts=facts,
        commands=[
            ("Evaluate the model again", f"fasttrain evaluate --checkpoint {quoted} --data {shlex.quote(str(data))}"
             f" --split {split}"),
            ("Predict", f"fasttrain predict --checkpoint {quoted} photograph.jpg"),
        ],
        versions=versions(device),
        temperature=spec.temperature,
        warning=baseline_warning(evaluation),
        mistakes=mistakes,
    )  # fmt: skip


def _image_size(config: TrainConfig, spec: ModelSpec) -> str:
    """Describe the image size in evaluation, and that in training if it differs."""
    if config.progressive:
        return f"{config.progressive}, {spec.geometry}"
    if config.image_size != spec.image_size and not config.linear_probe:
        return f"trained on {config.image_size} px, evaluated on {spec.geometry}"
    return str(spec.geometry)


def _made_by(spec: ModelSpec) -> str:
    """Return the option that a command needs for a model that was given as an object, else an empty string."""
    return " --model PACKAGE.MODULE:FUNCTION" if is_object(spec.name) else ""


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions of fasttrain, Python, the packages that affect results, CUDA and the operating system."""
    import torch

    found = {"fasttrain": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["torch"] = torch.__version__  # includes the build, which the package's metadata lack
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
    found["system"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return found


def _probe_facts(result: TrainResult) -> list[tuple[str, str]]:
    """Return what was trained in a linear probe, and the L2 penalty that was chosen."""
    chosen = f"{result.best['l2']:.3g}, try {result.best_epoch} of {len(result.history)}, {result.chosen_by}"
    return [("trained", "only the classifier, on features without augmentation"), ("L2 penalty", chosen)]


def _phase_facts(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    head = sum(record.get("phase") == "head" for record in history)
    return [("phases", f"epochs 1 to {head}: only the classifier")] if head else []


def _subtitle(spec: ModelSpec) -> str:
    return f"{spec.name} · {len(spec.classes)} classes · {spec.image_size} px · {datetime.now():%d %B %Y, %H:%M}"


def _data_facts(shards: ShardSet) -> list[tuple[str, str]]:
    splits = ", ".join(f"{name} {count:,}" for name, count in shards.split_sizes().items() if count)
    return [("data", str(shards.location)), ("photographs", splits)]


def _device(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _batch_note(config: TrainConfig, *, shown: int) -> str:
    """Return a sentence about the `shown` pictures of the first batch, or the reason that there are none."""
    if not shown:
        return "The first batch can't be shown, because its shards are no longer on this machine."
    steps = ["crop and flip" if config.hflip or config.vflip else "crop"]
    steps += [f"RandAugment {config.rand_augment}"] if config.rand_augment else []
    steps += ["TrivialAugment"] if config.trivial_augment else []
    steps += [f"colour jitter {config.color_jitter:g}"] if config.color_jitter else []
    steps += [f"random erasing {config.random_erasing:g}"] if config.random_erasing else []
    steps += [f"Mixup {config.mixup:g}"] if config.mixup else []
    steps += [f"CutMix {config.cutmix:g}"] if config.cutmix else []
    listed = f"{', '.join(steps[:-1])} and {steps[-1]}" if len(steps) > 2 else ", ".join(steps)
    of = "all" if shown == config.batch_size else f"{shown} of the {config.batch_size}"
    return f"The model's input in the run's first step, after {listed}: {of} photographs."
