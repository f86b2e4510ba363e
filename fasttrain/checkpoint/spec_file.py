"""Read a `ModelSpec` from `model.json` or from an exported file's metadata. This needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from fasttrain.config.geometry import CROP_PCT, Geometry, ResizeMode
from fasttrain.config.interpolation import check_interpolation
from fasttrain.errors import TooNew, UserError
from fasttrain.model.spec import ModelSpec
from fasttrain.text import read_text

MODEL_SCHEMA = 1


def read_spec(
    path: Path, remember: Callable[[str, Mapping[str, Any]], object] = lambda name, described: None
) -> ModelSpec:
    """Return the description of a model in the `model.json` at `path`.

    `remember`: called for a model from the Hugging Face Hub, with the model's name and the hub's description of the
    model. Raises UserError if the file is missing or damaged.
    """
    try:
        values = json.loads(read_text(path))
        if (schema := int(values.get("schema", MODEL_SCHEMA))) > MODEL_SCHEMA:
            raise TooNew(f"{path}: schema {schema} is newer than this fasttrain's {MODEL_SCHEMA}; upgrade fasttrain")
        if "hub" in values:
            remember(str(values["model"]), values["hub"])
        return spec_of(values)
    except TooNew:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}; put the run's own file back, or train again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; put the file next to the weights, where `train` wrote it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a model.json of fasttrain ({type(error).__name__}: {error}); put the run's own file back"
        ) from None


def spec_of(values: Mapping[str, Any]) -> ModelSpec:
    """Return the description of a model in `values`, the content of `model.json` or of an exported file's metadata.

    Raises UserError, ValueError, KeyError or TypeError if a value is missing or invalid.
    """
    return ModelSpec(
        str(values["model"]),
        tuple(values["classes"]),
        _geometry(values),
        tuple(values["mean"]),
        tuple(values["std"]),
        None if values.get("img_size") is None else int(values["img_size"]),
        multi_label=bool(values.get("multi_label")),
        thresholds=None if values.get("thresholds") is None else tuple(map(float, values["thresholds"])),
        temperature=_temperature(values.get("temperature", 1.0)),
        reject_threshold=None if values.get("reject_threshold") is None else float(values["reject_threshold"]),
    )


def _geometry(spec: Mapping[str, Any]) -> Geometry:
    """Return the geometry in `spec`. Fields that an older model.json lacks get their defaults."""
    crop_pct, mode = float(spec.get("crop_pct", CROP_PCT)), spec.get("resize_mode", "crop")
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct = {crop_pct} is not in (0, 1]")
    if mode not in get_args(ResizeMode):
        raise ValueError(f"resize_mode = {mode!r} is not one of {', '.join(get_args(ResizeMode))}")
    interpolation = check_interpolation(spec.get("interpolation", "bilinear"))
    return Geometry(int(spec["image_size"]), crop_pct, mode, interpolation)


def _temperature(given: Any) -> float:
    found = float(given)
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"temperature = {given} is not a number above 0")
    return found
