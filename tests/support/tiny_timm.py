"""A model of 2,500 parameters, known to timm as `fasttrain_tiny`: its checkpoints take a few kilobytes."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import ResNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock

default_cfgs = generate_default_cfgs({"fasttrain_tiny.untrained": {"first_conv": "conv1.0", "classifier": "fc"}})


@register_model
def fasttrain_tiny(pretrained: bool = False, **options: Any) -> torch.nn.Module:
    """Return a ResNet of four narrow blocks."""
    shape = {"layers": (1, 1, 1, 1), "channels": (2, 2, 4, 4), "stem_type": "deep", "stem_width": 2}
    made: torch.nn.Module = build_model_with_cfg(
        ResNet, "fasttrain_tiny", pretrained, block=BasicBlock, **{**shape, **options}
    )
    return made
