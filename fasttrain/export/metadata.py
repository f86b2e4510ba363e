"""The metadata of an exported file: its classes, how to prepare its input, and how to interpret its logits."""

from __future__ import annotations

from typing import Any

from fasttrain.config.geometry import CROP_PCT, Geometry
from fasttrain.loaders.plan import LETTERBOX_GREY
from fasttrain.model.factory import ModelSpec
from fasttrain.version import __version__

_UPRIGHT = "turned upright by its EXIF orientation, with white behind transparent parts"


def metadata_of(spec: ModelSpec, input: str) -> dict[str, Any]:
    """Return the metadata of the model that `spec` describes, as JSON data.

    The keys include classes, image_size, mean and std, and texts about the preprocessing, the input and the output.
    `input`: "uint8" if the file takes pixels, "float" if it takes normalized floats.
    """
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
        **({} if spec.reject_threshold is None else {"reject_threshold": spec.reject_threshold}),
        "preprocess": _preprocess(spec.geometry),
    }


def _output(spec: ModelSpec) -> dict[str, Any]:
    """Return the metadata of the output: the temperature of the softmax, or a multi-label model's thresholds."""
    logits = f"logits, float32 [n, {len(spec.classes)}]; probabilities are"
    if spec.multi_label:
        thresholds = spec.thresholds or (0.5,) * len(spec.classes)
        return {"output": f"{logits} sigmoid(logits)", "multi_label": True, "thresholds": list(thresholds)}
    return {"output": f"{logits} softmax(logits / temperature)", "temperature": spec.temperature}


def _preprocess(geometry: Geometry) -> str:
    """Describe in one phrase how a photograph becomes the model's input."""
    share = "224/256" if geometry.crop_pct == CROP_PCT else f"{geometry.crop_pct:g}"
    resized = f"resized ({geometry.interpolation}, antialiased)"
    seen = {
        "crop": f"the centred square of {share} of the short side, {resized} to image_size",
        "squash": f"{resized} to a square of image_size, whatever its aspect ratio",
        "letterbox": f"{resized} until its longer side is image_size, in the middle of a square of grey "
        f"({LETTERBOX_GREY})",
    }
    return f"{_UPRIGHT}, {seen[geometry.resize_mode]}"
