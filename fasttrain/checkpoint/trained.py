"""A trained model from what a run left: its folder, `model.safetensors`, or a full checkpoint."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.checkpoint.folder import CHECKPOINTS
from fasttrain.checkpoint.weights import weights_file
from fasttrain.errors import UserError
from fasttrain.model.factory import ModelSpec, create_model
from fasttrain.model.own import OwnModel
from fasttrain.text import read_text


def load_trained(path: Path, model: str | OwnModel | None = None) -> tuple[torch.nn.Module, ModelSpec]:
    """The model in eval mode on the CPU, and its spec.

    `path` is a run folder (its best epoch's weights), a `model.safetensors` beside its `model.json`, or a
    file in `checkpoints` below it (the last weights; the EMA's where there is one). `model` makes the model where the
    run's files can't; a module is copied. Raises UserError.
    """
    path, folder = weights_file(path), run_folder(path)
    bare = path.absolute().parent == folder
    spec = _read_spec(folder / "model.json")
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
    """Return the folder of the run whose weights or checkpoint `path` is, or which it is itself.

    Raises UserError where there are no weights.
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
            int(spec["image_size"]),
            tuple(spec["mean"]),
            tuple(spec["std"]),
            None if spec.get("img_size") is None else int(spec["img_size"]),
            bool(spec.get("multi_label")),
            None if spec.get("thresholds") is None else tuple(map(float, spec["thresholds"])),
        )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it must lie beside the weights, as `train` left it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a model.json of fasttrain's ({type(error).__name__}: {error})") from None
