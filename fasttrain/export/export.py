"""`export`: a trained model into a file for other programs, checked on photographs before it is put into its place."""

from __future__ import annotations

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

INPUTS = ("uint8", "float")


@dataclass(frozen=True)
class ExportResult:
    """The file, what it takes, and how it compares with the model: `max_difference` of any logit on `photographs`
    pictures, whose greatest logit is `max_logit`; `same_top1` of them have the same likeliest class.

    model_bytes: the size of the model's weights. accuracy: None where the data has no labels.
    unchecked: why the file wasn't run, or None where it was. An unchecked file was compared on no photographs: the
    differences are None, and it has neither an accuracy nor speeds.
    """

    path: Path
    bytes: int
    model_bytes: int
    metadata: dict[str, Any]
    photographs: int
    source: str
    max_difference: float | None
    max_logit: float | None
    same_top1: int | None
    accuracy: Accuracy | None
    unchecked: str | None
    runtime: str
    threads: int
    speeds: list[Speed]

    def to_dict(self) -> dict[str, Any]:
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
    """Write the model that `checkpoint` (see `load_trained`) holds to `out`, default: `model.SUFFIX` beside it.

    `input` "uint8": the file takes pixels, [n, H, W, 3] RGB in 0..255, and normalizes them itself; "float": it takes
    float32 [n, 3, H, W], (x / 255 - mean) / std. Any n. It gives logits, float32 [n, classes]. It is compared with the
    model on `photographs` of `data` (see `some_photographs`), by default what the run was trained on, where that is
    still there; `tolerance` is of the greatest logit, or of 1 where that is more, and by default the format's. Where
    `data` is shards, top1 of both is measured on the validation split. Formats of integers need such data: they choose
    their ranges on photographs of the training split.

    Raises UserError where a logit differs by more, or the file loses more than `accept_drop` points of top1 (nothing is
    written then), or a package is missing.

    model: what makes the model, where the run's files can't: see `load_trained`.
    """
    if input not in INPUTS:
        raise UserError(f"--input {input} is not one of {', '.join(INPUTS)}")
    kind = make_format(format)
    checkpoint = weights_file(user_path(checkpoint))
    path = user_path(out) if out else _folder(checkpoint) / f"model{kind.suffix}"
    trained, spec = load_trained(checkpoint, model)
    data = _shards_of_run(checkpoint) if data is None else data
    crop = evaluation_crop(spec.geometry)
    pixels, source = some_photographs(data, photographs, crop)
    shards = labelled_shards(data, spec)
    examples = torch.cat([pixels[:1], pixels[:1]])
    if kind.calibration:
        examples = calibration_photographs(_calibrating(shards, format), kind.calibration, crop)
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
        with atomic_folder(path) as folder:  # weights of 2 GB and more lie in a second file
            written = folder / path.name
            kind.write(graph, takes(examples), written, metadata)
            run = None if kind.unchecked else kind.open(written, threads)
            eager = _eager(trained, spec)
            if run is not None:
                say(f"comparing it with the model on {len(pixels)} photographs")
                difference, greatest, same = _compare(run, graph, takes(pixels))
                _require_close(difference, greatest, kind.tolerance if tolerance is None else tolerance, kind)
            if run is not None and shards is not None:
                say("measuring its accuracy on the validation split")
                accuracy = measure_accuracy(shards, spec, eager, _after(takes, run))
                _require_accurate(accuracy, accept_drop, kind)
            metadata = kind.read_metadata(written)
            size = sum(each.stat().st_size for each in folder.iterdir())
    except OSError as error:
        raise of_os(error, path, "choose another --out") from error
    speeds: list[Speed] = []
    if speed and run is not None:
        say("measuring its speed")
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
    """Return the shards that the run was trained on, where they are still on this machine."""
    data = data_of_run(checkpoint)
    return data if data is not None and not is_url(data) and (user_path(data) / MANIFEST).exists() else None


def _calibrating(shards: ShardSet | None, format: str) -> ShardSet:
    if shards is None or len(shards.ids("train")) < 3 or not len(shards.ids("val")):
        raise UserError(
            f"--format {format} chooses its ranges on photographs of a training split and measures what they cost on a "
            "validation split; give --data shards that have both, and the model's classes"
        )
    return shards


def _after(takes: Run, run: Run) -> Run:
    return lambda images: run(takes(images))


def _compare(run: Run, model: torch.nn.Module, images: torch.Tensor) -> tuple[float, float, int]:
    """Return the greatest difference of a logit, the greatest logit, and how many likeliest classes are the same."""
    batches, start = [], 0
    while start < len(images):  # of 1, 2, 4, 8 …: a batch size that was frozen into the file would show
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
            f"{kind.runtime} and the model differ by {difference:.2e} in a logit, of which the greatest is "
            f"{greatest:.3g}: more than {allowed:.2e}; nothing was written; raise --tolerance if that is good enough"
        )


def _require_accurate(accuracy: Accuracy | None, accept_drop: float, kind: Format) -> None:
    if accuracy is None or (drop := 100 * (accuracy.model - accuracy.exported)) <= accept_drop:
        return
    most, least = (-100 * each for each in accuracy.difference_interval)
    raise UserError(
        f"{kind.runtime} loses {drop:.2f} points of {accuracy.measure} (95 %: {least:.2f} to {most:.2f}) on "
        f"{accuracy.photographs:,} photographs, {100 * accuracy.model:.2f} % to {100 * accuracy.exported:.2f} %: more "
        f"than {accept_drop:g}; nothing was written; raise --accept-drop if that is good enough"
    )


def _eager(model: torch.nn.Module, spec: ModelSpec) -> Run:
    fast = torch.nn.Sequential(NormalizePixels(spec.mean, spec.std, channels_last=True), model).eval()
    return inferring(fast.to(memory_format=torch.channels_last))
