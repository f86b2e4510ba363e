"""Check a model's name, and look up what timm knows about the model."""

from __future__ import annotations

import re
from typing import Any

import timm
from timm.models import PretrainedCfg

from fasttrain.config.interpolation import Interpolation
from fasttrain.config.model_name import import_path, is_own
from fasttrain.errors import UserError
from fasttrain.model.hub import hub_model, repository
from fasttrain.model.own import find_maker
from fasttrain.text import nearest

_SOURCE = re.compile(r"^[\w+.-]{2,}:|/")


def require_model(name: str) -> None:
    """Raise UserError unless `name` is a timm name, hf-hub:OWNER/NAME or the import path of a function.

    The message has the nearest valid name. If a timm name has a tag for its weights, after a dot, timm must know the
    tag.
    """
    if import_path(name):
        find_maker(name)
    if is_own(name):
        return
    if repository(name) is not None:
        hub_model(name)
        return
    if _SOURCE.search(name):
        _refuse_source(name)
    arch, dot, tag = name.partition(".")
    if not timm.is_model(arch) or timm.models.get_deprecated_models().get(arch, arch) is None:
        raise UserError(f"model = '{name}' is not known to timm{nearest(name.strip().lower(), timm.list_models())}")
    if dot:
        tags = [each.partition(".")[2] for each in timm.list_models(f"{arch}.*", include_tags=True)]
        if tag not in tags:
            known = f"; its weights are {', '.join(sorted(tags))}" if tags else f"; use '{arch}'"
            raise UserError(
                f"model = '{name}': timm has no weights '{tag}' of {arch}{nearest(tag.lower(), tags) or known}"
            )


def pretrained_config(name: str) -> Any:
    """Return timm's PretrainedCfg of the model `name`: mean, standard deviation, input size and more.

    A name that timm has deprecated is accepted. The user's own models get timm's defaults, which are ImageNet's mean
    and standard deviation and 224 px. Raises UserError if there is no such model.
    """
    require_model(name)
    if is_own(name):
        return PretrainedCfg()
    if repository(name) is not None:
        return PretrainedCfg(**hub_model(name).pretrained_cfg)
    current = timm.models.get_deprecated_models().get(name) or name
    return timm.models.get_pretrained_cfg(current) or PretrainedCfg()


def timm_arguments(name: str) -> dict[str, Any]:
    """Return the keyword arguments with which `timm.create_model` creates the timm or hub model `name`."""
    if (source := repository(name)) is None:
        return {"model_name": name}
    found = hub_model(name)
    config = {**found.pretrained_cfg, "source": "hf-hub", "hf_hub_id": source}
    return {**found.arguments, "model_name": found.architecture, "pretrained_cfg": config}


def own_interpolation(name: str) -> Interpolation:
    """Return the resize filter of a model's pretrained weights: "bicubic" if timm says so, otherwise "bilinear"."""
    return "bicubic" if not is_own(name) and pretrained_config(name).interpolation == "bicubic" else "bilinear"


def _refuse_source(name: str) -> None:
    """Raise UserError for a name that is a folder, or a hub repository without the prefix `hf-hub:`."""
    if repository(f"hf-hub:{name}") is not None:
        raise UserError(f"model = '{name}': did you mean 'hf-hub:{name}'?")
    raise UserError(
        f"model = '{name}' is neither a timm name nor hf-hub:OWNER/NAME; give timm's name of the architecture as "
        "--model with --weights FILE"
    )
