"""Load a trained model from a run folder, `model.safetensors`, or a full checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fasttrain.checkpoint.file import load_checkpoint
from fasttrain.checkpoint.folder import CHECKPOINTS
from fasttrain.checkpoint.spec_file import read_spec
from fasttrain.checkpoint.weights import weights_file
from fasttrain.config.interpolation import Interpolation, check_interpolation
from fasttrain.errors import UserError
from fasttrain.model.factory import create_model
from fasttrain.model.hub import remember
from fasttrain.model.own import OwnModel
from fasttrain.model.spec import ModelSpec


def load_trained(
    path: Path, model: str | OwnModel | None = None, interpolation: Interpolation | None = None
) -> tuple[torch.nn.Module, ModelSpec]:
    """Return the model in eval mode on the CPU, and its spec.

    `path` is a run folder (its best epoch's weights), a `model.safetensors` next to its `model.json`, or a file in its
    `checkpoints` (the last weights, or the EMA's if there is one). `model` builds the model if the run's files can't;
    a module is copied. `interpolation`: replaces the filter in the run's spec. The spec's temperature is 1 for a
    checkpoint, because it was not fitted to those weights, and there is no reject threshold. Raises UserError if a file
    is missing or damaged, or if the weights don't fit the model.
    """
    path, folder = weights_file(path), run_folder(path)
    bare = path.absolute().parent == folder
    spec = read_spec(folder / "model.json", remember)
    if not bare:
        spec = replace(spec, temperature=1.0, reject_threshold=None)
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
        raise UserError(
            f"{path}: not an intact safetensors file ({error}); train again, or put the file back"
        ) from error
    except RuntimeError as error:
        expected, fix = "the model that was given", "give the run's own model"
        if model is None:
            expected, fix = f"{spec.name} as {folder / 'model.json'} describes it", "put the run's own file back"
        raise UserError(f"{path}: its tensors do not fit {expected}; {fix}") from error
    return made.eval(), spec


def run_folder(path: Path) -> Path:
    """Return the folder of the run that `path` (the folder itself, weights or a checkpoint) belongs to.

    Raises UserError if there are no weights.
    """
    path = weights_file(path).absolute()
    bare = path.suffix == ".safetensors" and path.parent.name != CHECKPOINTS
    return path.parent if bare else path.parents[1]
