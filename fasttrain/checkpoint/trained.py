"""A trained model from what a run left: its folder, `model.safetensors`, or a full checkpoint."""

from __future__ import annotations

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
from fasttrain.text import read_text


def load_trained(path: Path) -> tuple[torch.nn.Module, ModelSpec]:
    """The model in eval mode on the CPU, and its spec.

    `path` is a run folder (its best epoch's weights), a `model.safetensors` beside its `model.json`, or a
    file in `checkpoints` below it (the last weights; the EMA's where there is one). Raises UserError.
    """
    path = weights_file(path)
    bare = path.suffix == ".safetensors" and path.absolute().parent.name != CHECKPOINTS
    folder = path.parent if bare else path.absolute().parents[1]
    spec = _read_spec(folder / "model.json")
    model = create_model(spec.name, len(spec.classes))
    try:
        if bare:
            state = load_file(path)
        else:
            checkpoint = load_checkpoint(path)
            state = checkpoint.get("ema") or checkpoint.get("model") or {}
        model.load_state_dict(state)
    except SafetensorError as error:
        raise UserError(f"{path}: not an intact safetensors file ({error})") from error
    except RuntimeError as error:
        raise UserError(
            f"{path}: its tensors do not fit {spec.name} as {folder / 'model.json'} describes it"
        ) from error
    return model.eval(), spec


def _read_spec(path: Path) -> ModelSpec:
    try:
        spec = json.loads(read_text(path))
        return ModelSpec(
            str(spec["model"]),
            tuple(spec["classes"]),
            int(spec["image_size"]),
            tuple(spec["mean"]),
            tuple(spec["std"]),
        )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it must lie beside the weights, as `train` left it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a model.json of fasttrain's ({type(error).__name__}: {error})") from None
