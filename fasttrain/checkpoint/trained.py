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
    """Return a trained model in eval mode on the CPU, and its description.

    `path`: a run folder, for the best epoch's weights; a `model.safetensors` with the `model.json` beside it; or a
    checkpoint of a run, for its latest weights, or the EMA's if the run has an EMA. `model`: needed if the run was
    trained on a model object: that object, which is copied, or the import path of a function that makes it.
    `interpolation`: replaces the filter in the description.

    For a checkpoint the temperature is 1 and there is no reject threshold, because these were not chosen for its
    weights. Raises UserError if a file is missing or damaged, or if the weights don't fit the model.
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
            f"{path}: not an intact safetensors file ({error}); put the run's own file back, or train again"
        ) from error
    except RuntimeError as error:
        expected, fix = "the model that was given", "give the run's own model"
        if model is None:
            expected, fix = f"{spec.name} as {folder / 'model.json'} describes it", "put the run's own file back"
        raise UserError(f"{path}: its tensors do not fit {expected}; {fix}") from error
    return made.eval(), spec


def run_folder(path: Path) -> Path:
    """Return the run folder of `path`, which is the folder itself, its `model.safetensors` or one of its checkpoints.

    Raises UserError if the folder has no weights or `path` doesn't exist.
    """
    path = weights_file(path).absolute()
    bare = path.suffix == ".safetensors" and path.parent.name != CHECKPOINTS
    return path.parent if bare else path.parents[1]
