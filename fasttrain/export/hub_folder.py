"""Write a trained model as a repository of the Hugging Face Hub, which timm and transformers can load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.geometry import ResizeMode
from fasttrain.config.model_name import is_own
from fasttrain.errors import UserError
from fasttrain.export.model_card import write_model_card
from fasttrain.files import atomic_write_bytes
from fasttrain.model.factory import ModelSpec
from fasttrain.model.hub import CONFIGURED
from fasttrain.model.names import timm_arguments

CONFIG = "config.json"
_CROP_MODES: dict[ResizeMode, str] = {"crop": "center", "squash": "squash", "letterbox": "border"}


def write_hub_folder(run: Path, folder: Path, repository: str) -> list[str]:
    """Write the files of a hub repository to the existing `folder`, and return their names.

    `run`: the run folder. `repository`: the repository's name on the hub, USER/NAME. `predict --checkpoint` accepts the
    written folder, because the files include `model.json`. Raises UserError if the run hasn't finished or its model
    isn't one of timm's, and OSError if a file can't be written.
    """
    trained, spec = load_trained(run)
    if is_own(spec.name):
        raise UserError(
            f"{run}: {spec.name} is not one of timm's models, so the hub can't load it; use `fasttrain export`"
        )
    written = RunFolder(folder)
    card = write_model_card(RunFolder(run), spec, repository, folder)
    written.write_model(trained)
    written.write_model_spec(spec)
    text = json.dumps(hub_config(trained, spec), indent=2, ensure_ascii=False) + "\n"
    atomic_write_bytes(folder / CONFIG, text.encode())
    return sorted([*card, CONFIG, written.model.name, written.model_spec.name])


def hub_config(model: torch.nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """Return the content of the hub's `config.json`, in timm's form, which transformers can read.

    `model`: a timm model that was made from `spec`.
    """
    timm_model: Any = model
    arguments = timm_arguments(spec.name)
    model_args = {key: each for key, each in arguments.items() if key not in ("model_name", "pretrained_cfg")}
    if spec.img_size is not None:
        model_args["img_size"] = spec.img_size
    side, geometry = spec.image_size, spec.geometry
    pretrained = timm_model.pretrained_cfg
    config = {key: pretrained[key] for key in CONFIGURED if pretrained.get(key) is not None}
    config.pop("pool_size", None)  # it belongs to the image size of the pretrained weights
    config |= {
        "custom_load": False,
        "input_size": [3, side, side],
        "interpolation": geometry.interpolation,
        "crop_pct": geometry.crop_pct if geometry.resize_mode == "crop" else 1.0,
        "crop_mode": _CROP_MODES[geometry.resize_mode],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "num_classes": len(spec.classes),
    }
    return {
        "architecture": pretrained["architecture"],
        "num_classes": len(spec.classes),
        "num_features": timm_model.num_features,
        "label_names": list(spec.classes),
        **({"model_args": model_args} if model_args else {}),
        **({"problem_type": "multi_label_classification"} if spec.multi_label else {}),
        "pretrained_cfg": config,
    }
