"""Frozen blocks: no gradient, no changing statistics."""

from __future__ import annotations

import pytest
import timm
import torch

from fasttrain.errors import UserError
from fasttrain.model.freeze import freeze_blocks, keep_frozen


def test_frozen_blocks_get_no_gradient_and_keep_their_statistics():
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    frozen = freeze_blocks(model, 5)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    model.train()
    keep_frozen(frozen)
    seen = []
    model.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output.grad_fn))
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert seen == [None], "the frozen part built an autograd graph"
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert not [name for name in changed if name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1"))]
    assert {"classifier.weight", "blocks.3.0.conv_pw.weight", "blocks.3.0.bn1.running_mean"} <= changed


def test_freezing_everything_names_the_nearest_number():
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    with pytest.raises(UserError, match="nearest valid value is 18"):
        freeze_blocks(model, 99)
