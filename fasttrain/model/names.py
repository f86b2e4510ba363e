"""Which model a name means to timm, checked as strictly as timm itself reads it."""

from __future__ import annotations

import re
from typing import Any

import timm
from timm.models import PretrainedCfg

from fasttrain.config.interpolation import Interpolation
from fasttrain.config.model_name import import_path, is_own
from fasttrain.errors import UserError
from fasttrain.model.own import find_maker
from fasttrain.text import nearest

_SOURCE = re.compile(r"^[\w+.-]{2,}:|/")


def require_model(name: str) -> None:
    """Raises UserError, with the nearest valid name, where timm knows no such model or no such pretrained tag of it, or
    where it is an import path that leads to no function."""
    if import_path(name):
        find_maker(name)
    if is_own(name):
        return
    if _SOURCE.search(name):
        _refuse_source(name)
    arch, dot, tag = name.partition(".")
    if not timm.is_model(arch) or timm.models.get_deprecated_models().get(arch, arch) is None:
        raise UserError(f"model = '{name}' is not known to timm{nearest(name.strip().lower(), timm.list_models())}")
    if dot:
        tags = [each.partition(".")[2] for each in timm.list_models(f"{arch}.*", include_tags=True)]
        if tag not in tags:
            known = f"; it has {', '.join(sorted(tags))}" if tags else f"; use '{arch}'"
            raise UserError(
                f"model = '{name}': timm has no weights '{tag}' of {arch}{nearest(tag.lower(), tags) or known}"
            )


def pretrained_config(name: str) -> Any:
    """timm's PretrainedCfg of the model `name`, also of one that it now calls otherwise. Raises UserError as
    `require_model` does. A model of one's own has timm's defaults: ImageNet's mean and deviation, 224 px."""
    require_model(name)
    if is_own(name):
        return PretrainedCfg()
    current = timm.models.get_deprecated_models().get(name) or name
    return timm.models.get_pretrained_cfg(current) or PretrainedCfg()


def own_interpolation(name: str) -> Interpolation:
    """Return the filter that the pretrained weights of `name` were trained with, by timm.

    It is "bilinear" for a model of one's own, and for weights that timm says another filter of.
    """
    return "bicubic" if not is_own(name) and pretrained_config(name).interpolation == "bicubic" else "bilinear"


def _refuse_source(name: str) -> None:
    """For names that point to a repository or a folder ("hf-hub:timm/resnet18.a1_in1k"): they are no timm names, so a
    trained model could not be built again from them alone."""
    last = re.split(r"[:/]", name.rstrip("/"))[-1]
    if not name.startswith("local-dir:") and timm.is_model(last):
        raise UserError(f"model = '{name}': leave out what comes before the name; did you mean '{last}'?")
    raise UserError(
        f"model = '{name}' is not a timm name; download its weights, and give timm's name of the architecture with "
        "--weights FILE"
    )
