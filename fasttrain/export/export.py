"""`export`: write a trained model to a file for other programs, after comparing file and model on photographs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.checkpoint.weights import data_of_run, weights_file
from fasttrain.config.location import is_url, user_path
from fasttrain.data.crops import evaluation_crop
from fasttrain.errors import UserError, of_os
from fasttrain.export.accuracy import Accuracy, labelled_shards, measure_accuracy
from fasttrain.export.base import Format, Run, inferring
from fasttrain.export.metadata import metadata_of
from fasttrain.export.photographs import calibration_photographs, some_photographs
from fasttrain.export.registry import make_format
from fasttrain.export.speed import Speed, measure
from fasttrain.files import atomic_folder, make_folder
from fasttrain.model.factory import ModelSpec
from fasttrain.model.own import OwnModel
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.shards.format import MANIFEST
from fasttrain.shards.reader import ShardSet
from fasttrain.text import counted

INPUTS = ("uint8", "float")


@dataclass(frozen=True)
class ExportResult:
    """An exported file and its comparison with the model.

    `path`: the file. `bytes`: its size, including further files with its weights. `model_bytes`: the size of the
    model's weights. `metadata`: the file's description of its classes, input and output (see `metadata_of`).

    `photographs`: the number of photographs on which file and model were compared. `source`: a phrase that says where
    these come from. `max_difference`: the greatest absolute difference between a logit of the file and of the model.
    `max_logit`: the model's greatest absolute logit. `tolerance`: the accepted `max_difference` as a share of
    `max_logit`, or of 1 if that is greater; None if any difference is accepted, as in integer formats, of which only
    the accuracy counts. `same_top1`: the number of photographs for which file and model have the same likeliest class.
    `accuracy`: the accuracies on labelled photographs, or None if the data isn't shards with the model's classes.
    `runtime`: the library that runs the file. `speeds`: an entry for each batch size, measured with `threads` CPU
    threads; empty if not wanted.

    `unchecked`: why this machine can't run the file, or None if it can. If it can't, `photographs` is 0, `speeds` is
    empty, and `max_difference`, `max_logit`, `same_top1` and `accuracy` are None.
    """

    path: Path
    bytes: int
    model_bytes: int
    metadata: dict[str, Any]
    photographs: int
    source: str
    max_difference: float | None
    max_logit: float | None
    tolerance: float | None
    same_top1: int | None
    accuracy: Accuracy | None
    unchecked: str | None
    runtime: str
    threads: int
    speeds: list[Speed]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, by the names of the fields."""
        return {**asdict(self), "path": str(self.path)}


def export(
    checkpoint: str | Path,
    format: str = "onnx",
    out: str | Path | None = None,
    *,
    model: str | OwnModel | None = None,
    input: str = "uint8",
    data: str | Path | None = None,
    photographs: int = 64,
    tolerance: float | None = None,
    accept_drop: float = 1.0,
    speed: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Write a trained model to a file for other programs, and compare the file with the model.

    `checkpoint`: a run folder, its `model.safetensors` or a checkpoint. `format`: a name in `FORMATS`. `out`: the file,
    by default `model` with the format's suffix in the run folder. `model`: needed if the run was trained on a model
    object of your own: that object, or the import path of a function that makes it. `input`: "uint8" for a file that
    takes pixels, RGB, [n, H, W, 3], and normalizes them itself; "float" for a file that takes float32 [n, 3, H, W],
    (pixel / 255 - mean) / std. The file returns logits, float32 [n, classes].

    `data`: shards or photographs, by default the shards that the run was trained on. If these are not on this machine,
    fasttrain draws pictures. The file is compared with the model on at most `photographs` pictures of `data`. If `data`
    is shards with the model's classes, the accuracy of both is measured on the validation split. Integer formats need
    such shards, because they choose their ranges on photographs of the training split.

    `tolerance`: the greatest accepted difference of a logit, as a share of the greatest logit or of 1 if that is
    greater; by default the format's own. `accept_drop`: the greatest accepted loss of accuracy, in percentage points.
    `speed`: whether to measure the speed of file and model. `say`: called with lines about the progress.

    Raises UserError, and writes no file, if the logits differ by more than `tolerance` or the accuracy drops by more
    than `accept_drop`, if an argument is invalid, if a package is missing, or if the model can't be converted.
    """
    if input not in INPUTS:
        raise UserError(f"--input {input} is not one of {', '.join(INPUTS)}")
    kind = make_format(format)
    tolerance = kind.tolerance if tolerance is None else tolerance
    checkpoint = weights_file(user_path(checkpoint))
    path = user_path(out) if out else _folder(checkpoint) / f"model{kind.suffix}"
    trained, spec = load_trained(checkpoint, model)
    data = _shards_of_run(checkpoint) if data is None else data
    crop = evaluation_crop(spec.geometry)
    pixels, source = some_photographs(data, photographs, crop)
    shards = labelled_shards(data, spec)
    examples = torch.cat([pixels[:1], pixels[:1]])
    if kind.calibration:
        examples = calibration_photographs(_require_calibration_shards(shards, format), kind.calibration, crop)
    normalize = NormalizePixels(spec.mean, spec.std, channels_last=False)
    graph = torch.nn.Sequential(normalize, trained).eval() if input == "uint8" else trained
    takes: Run = normalize if input == "float" else lambda images: images
    metadata = metadata_of(spec, input)
    threads = torch.get_num_threads()
    accuracy: Accuracy | None = None
    difference, greatest, same = None, None, None
    say(f"exporting {spec.name} as {format}")
    try:
        make_folder(path.parent)
        with atomic_folder(path) as folder:  # a folder, because weights of 2 GB and more get a second file
            written = folder / path.name
            kind.write(graph, takes(examples), written, metadata)
            run = None if kind.unchecked else kind.open(written, threads)
            eager = _eager(trained, spec)
            if run is not None:
                say(f"comparing the file with the model on {counted(len(pixels), 'photograph')}")
                difference, greatest, same = _compare(run, graph, takes(pixels))
                _require_close(difference, greatest, tolerance, kind)
                if shards is not None:
                    say("measuring the accuracy on the validation split")
                    accuracy = measure_accuracy(shards, spec, eager, _after(takes, run))
                    _require_accurate(accuracy, accept_drop, kind)
            metadata = kind.read_metadata(written)
            size = sum(each.stat().st_size for each in folder.iterdir())
    except OSError as error:
        raise of_os(error, path, "choose another --out") from error
    speeds: list[Speed] = []
    if speed and run is not None:
        say("measuring the speed")
        speeds = measure((run, takes(pixels)), (eager, pixels))
    return ExportResult(
        path=path,
        bytes=size,
        model_bytes=sum(each.nbytes for each in trained.state_dict().values()),
        metadata=metadata,
        photographs=0 if run is None else len(pixels),
        source=source,
        max_difference=difference,
        max_logit=greatest,
        tolerance=tolerance if math.isfinite(tolerance) else None,
        same_top1=same,
        accuracy=accuracy,
        unchecked=kind.unchecked,
        runtime=kind.runtime,
        threads=threads,
        speeds=speeds,
    )


def _folder(checkpoint: Path) -> Path:
    return checkpoint.parent if checkpoint.suffix == ".safetensors" else checkpoint.parents[1]


def _shards_of_run(checkpoint: Path) -> str | None:
    """Return the shards that the run was trained on, or None if they are not on this machine."""
    data = data_of_run(checkpoint)
    return data if data is not None and not is_url(data) and (user_path(data) / MANIFEST).exists() else None


def _require_calibration_shards(shards: ShardSet | None, format: str) -> ShardSet:
    if shards is None:
        lacking = "there are no shards with the model's classes"
    elif len(shards.ids("train")) < 3:
        lacking = "the shards have fewer than 3 training photographs"
    elif not len(shards.ids("val")):
        lacking = "the shards have no validation split"
    else:
        return shards
    raise UserError(
        f"--format {format} needs photographs to choose the ranges of integers and to measure the accuracy, but "
        f"{lacking}; give others with --data"
    )


def _after(takes: Run, run: Run) -> Run:
    return lambda images: run(takes(images))


def _compare(run: Run, model: torch.nn.Module, images: torch.Tensor) -> tuple[float, float, int]:
    """Compare the logits of a file with those of the model.

    Returns the greatest difference, the model's greatest absolute logit, and the number of images with the same
    likeliest class.
    """
    batches, start = [], 0
    while start < len(images):  # batches of 1, 2, 4, 8 … reveal a file that only accepts one batch size
        batches.append(images[start : 2 * start + 1])
        start = 2 * start + 1
    with torch.inference_mode():
        expected = torch.cat([model(batch) for batch in batches])
    found = torch.cat([run(batch) for batch in batches])
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    return float((found - expected).abs().max()), float(expected.abs().max()), same


def _require_close(difference: float, greatest: float, tolerance: float, kind: Format) -> None:
    allowed = tolerance * max(1.0, greatest)
    if not difference <= allowed:
        raise UserError(
            f"a logit of {kind.runtime} differs from the model's by {difference:.2e}, but --tolerance allows only "
            f"{allowed:.2e} (the greatest logit is {greatest:.3g}); nothing was written; to accept the difference, "
            "raise --tolerance"
        )


def _require_accurate(accuracy: Accuracy | None, accept_drop: float, kind: Format) -> None:
    if accuracy is None or (drop := 100 * (accuracy.model - accuracy.exported)) <= accept_drop:
        return
    most, least = (-100 * each for each in accuracy.difference_interval)
    raise UserError(
        f"{kind.runtime} loses {drop:.2f} points of {accuracy.measure} (95 %: {least:.2f} to {most:.2f}) on "
        f"{counted(accuracy.photographs, 'photograph')}, from {100 * accuracy.model:.2f} % to "
        f"{100 * accuracy.exported:.2f} %, but --accept-drop allows only {accept_drop:g}; nothing was written; to "
        "accept the loss, raise --accept-drop"
    )


def _eager(model: torch.nn.Module, spec: ModelSpec) -> Run:
    """Return a function that runs `model` in PyTorch, from pixels to logits, in channels-last layout (fast on CPUs)."""
    fast = torch.nn.Sequential(NormalizePixels(spec.mean, spec.std, channels_last=True), model).eval()
    return inferring(fast.to(memory_format=torch.channels_last))
