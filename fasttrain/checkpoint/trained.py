"""Load a trained model from a run folder, `model.safetensors`, or a full checkpoint."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.checkpoint.folder import CHECKPOINTS
from fasttrain.checkpoint.weights import weights_file
from fasttrain.config.geometry import CROP_PCT, Geometry, ResizeMode
from fasttrain.config.interpolation import Interpolation, check_interpolation
from fasttrain.errors import UserError
from fasttrain.model.factory import ModelSpec, create_model
from fasttrain.model.own import OwnModel
from fasttrain.text import read_text


def load_trained(
    path: Path, model: str | OwnModel | None = None, interpolation: Interpolation | None = None
) -> tuple[torch.nn.Module, ModelSpec]:
    """Return the model in eval mode on the CPU, and its spec.

    `path` is a run folder (its best epoch's weights), a `model.safetensors` next to its `model.json`, or a file in its
    `checkpoints` (the last weights, or the EMA's if there is one). `model` builds the model if the run's files can't;
    a module is copied. `interpolation`: replaces the filter in the run's spec. The spec's temperature is 1 for a
    checkpoint, because it was not fitted to those weights. Raises UserError.
    """
    path, folder = weights_file(path), run_folder(path)
    bare = path.absolute().parent == folder
    spec = _read_spec(folder / "model.json")
    if not bare:
        spec = replace(spec, temperature=1.0)
    if interpolation is not None:
        spec = replace(spec, geometry=replace(spec.geometry, interpolation=check_interpolation(interpolation)))
    source = spec.name if model is None else copy.deepcopy(model)
    made = create_model(source, len(spec.classes), img_size=spec.img_size)
    try:
        if bare:
            state = load_file(path)
        else:
            checkpoint = load_checkpoint(path)
            state = checkpoint.get("ema") or checkpoint.get("model") or {}
        made.load_state_dict(state)
    except SafetensorError as error:
        raise UserError(f"{path}: not an intact safetensors file ({error})") from error
    except RuntimeError as error:
        described = (
            f"{spec.name} as {folder / 'model.json'} describes it" if model is None else "the model that was given"
        )
        raise UserError(f"{path}: its tensors do not fit {described}") from error
    return made.eval(), spec


def run_folder(path: Path) -> Path:
    """Return the folder of the run that `path` (the folder itself, weights or a checkpoint) belongs to.

    Raises UserError if there are no weights.
    """
    path = weights_file(path).absolute()
    bare = path.suffix == ".safetensors" and path.parent.name != CHECKPOINTS
    return path.parent if bare else path.parents[1]


def _read_spec(path: Path) -> ModelSpec:
    try:
        spec = json.loads(read_text(path))
        return ModelSpec(
            str(spec["model"]),
            tuple(spec["classes"]),
            _read_geometry(spec),
            tuple(spec["mean"]),
            tuple(spec["std"]),
            None if spec.get("img_size") is None else int(spec["img_size"]),
            multi_label=bool(spec.get("multi_label")),
            thresholds=None if spec.get("thresholds") is None else tuple(map(float, spec["thresholds"])),
            temperature=_temperature(spec.get("temperature", 1.0)),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}; train again, or put the file back") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it must be next to the weights, where `train` put it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a model.json of fasttrain ({type(error).__name__}: {error})") from None


def _read_geometry(spec: dict[str, Any]) -> Geometry:
    """Return the geometry. Settings that an older model.json lacks have their usual values."""
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
        raise ValueError(f"temperature {given}: a number above 0 was expected")
    return found
