"""`export`: a trained model into a file for other programs, checked on photographs before it is put into its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.geometry import CROP_PCT, Geometry
from fasttrain.config.location import user_path
from fasttrain.data.crops import evaluation_crop
from fasttrain.errors import UserError, of_os
from fasttrain.export.base import Format, Run, inferring
from fasttrain.export.photographs import some_photographs
from fasttrain.export.registry import make_format
from fasttrain.export.speed import Speed, measure
from fasttrain.files import atomic_folder, make_folder
from fasttrain.loaders.plan import LETTERBOX_GREY
from fasttrain.model.factory import ModelSpec
from fasttrain.model.own import OwnModel
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.version import __version__

INPUTS = ("uint8", "float")
_UPRIGHT = "upright by its EXIF orientation, laid onto white where it is transparent"


@dataclass(frozen=True)
class ExportResult:
    """The file, what it takes, and how it compares with the model: `max_difference` of any logit on `photographs`
    pictures, whose greatest logit is `max_logit`; `same_top1` of them have the same likeliest class."""

    path: Path
    bytes: int
    metadata: dict[str, Any]
    photographs: int
    source: str
    max_difference: float
    max_logit: float
    same_top1: int
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
    tolerance: float = 1e-3,
    speed: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Writes the model that `checkpoint` (see `load_trained`) holds to `out`, default: `model.SUFFIX` beside it.

    `input` "uint8": the file takes pixels, [n, H, W, 3] RGB in 0..255, and normalizes them itself; "float": it takes
    float32 [n, 3, H, W], (x / 255 - mean) / std. Any n. It gives logits, float32 [n, classes]. It is compared with the
    model on `photographs` of `data` (see `some_photographs`); `tolerance` is of the greatest logit, or of 1 where
    that is more. Raises UserError where they differ by more (nothing is written then), or a package is missing.

    model: what makes the model, where the run's files can't: see `load_trained`.
    """
    if input not in INPUTS:
        raise UserError(f"--input {input} is not one of {', '.join(INPUTS)}")
    kind = make_format(format)
    checkpoint = user_path(checkpoint)
    path = user_path(out) if out else _folder(checkpoint) / f"model{kind.suffix}"
    trained, spec = load_trained(checkpoint, model)
    pixels, source = some_photographs(data, photographs, evaluation_crop(spec.geometry))
    normalize = NormalizePixels(spec.mean, spec.std, channels_last=False)
    graph = torch.nn.Sequential(normalize, trained).eval() if input == "uint8" else trained
    images = pixels if input == "uint8" else normalize(pixels)
    metadata = _metadata(spec, input)
    threads = torch.get_num_threads()
    say(f"exporting {spec.name} as {format}")
    try:
        make_folder(path.parent)
        with atomic_folder(path) as folder:  # weights of 2 GB and more lie in a second file
            written = folder / path.name
            kind.write(graph, torch.cat([images[:1], images[:1]]), written, metadata)
            run = kind.open(written, threads)
            say(f"comparing it with the model on {len(pixels)} photographs")
            difference, greatest, same = _compare(run, graph, images)
            _require_close(difference, greatest, tolerance, kind)
            size = sum(each.stat().st_size for each in folder.iterdir())
    except OSError as error:
        raise of_os(error, path, "choose another --out") from error
    speeds: list[Speed] = []
    if speed:
        say("measuring its speed")
        speeds = measure((run, images), (_eager(trained, spec), pixels))
    return ExportResult(
        path, size, metadata, len(pixels), source, difference, greatest, same, kind.runtime, threads, speeds
    )


def _folder(checkpoint: Path) -> Path:
    if checkpoint.is_dir():
        return checkpoint
    return checkpoint.parent if checkpoint.suffix == ".safetensors" else checkpoint.parents[1]


def _metadata(spec: ModelSpec, input: str) -> dict[str, Any]:
    side = spec.image_size
    takes = {
        "uint8": f"uint8 [n, {side}, {side}, 3], RGB, 0..255",
        "float": f"float32 [n, 3, {side}, {side}], RGB, (x / 255 - mean) / std",
    }
    return {
        "producer": f"fasttrain {__version__}",
        "model": spec.name,
        "classes": list(spec.classes),
        "image_size": side,
        "crop_pct": spec.geometry.crop_pct,
        "resize_mode": spec.geometry.resize_mode,
        "interpolation": spec.geometry.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "input": takes[input],
        **_output(spec),
        "preprocess": _preprocess(spec.geometry),
    }


def _output(spec: ModelSpec) -> dict[str, Any]:
    """Return what makes predictions of logits: the softmax's temperature, or a threshold for each class's sigmoid."""
    logits = f"logits, float32 [n, {len(spec.classes)}]; probabilities are"
    if spec.multi_label:
        thresholds = spec.thresholds or (0.5,) * len(spec.classes)
        return {"output": f"{logits} sigmoid(logits)", "multi_label": True, "thresholds": list(thresholds)}
    return {"output": f"{logits} softmax(logits / temperature)", "temperature": spec.temperature}


def _preprocess(geometry: Geometry) -> str:
    share = "224/256" if geometry.crop_pct == CROP_PCT else f"{geometry.crop_pct:g}"
    resized = f"resized ({geometry.interpolation}, antialiased)"
    seen = {
        "crop": f"the centred square of {share} of the short side, {resized} to image_size",
        "squash": f"{resized} to a square of image_size, whatever its aspect ratio",
        "letterbox": f"{resized} until its longer side is image_size, in the middle of a square of grey "
        f"({LETTERBOX_GREY})",
    }
    return f"{_UPRIGHT}, {seen[geometry.resize_mode]}"


def _compare(run: Run, model: torch.nn.Module, images: torch.Tensor) -> tuple[float, float, int]:
    """The greatest difference of a logit, the greatest logit, and how many likeliest classes are the same."""
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


def _eager(model: torch.nn.Module, spec: ModelSpec) -> Run:
    fast = torch.nn.Sequential(NormalizePixels(spec.mean, spec.std, channels_last=True), model).eval()
    return inferring(fast.to(memory_format=torch.channels_last))
