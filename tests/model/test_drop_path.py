"""`drop_path`: timm's stochastic depth, and what a model without it says."""

from __future__ import annotations

import pytest
import timm
import torch

from fasttrain.errors import UserError
from fasttrain.model.factory import create_model


@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_vit"])
def test_blocks_are_left_out_in_training_only(name):
    model = create_model(name, 3, drop_path=0.5)
    torch.nn.init.normal_(model.get_classifier().weight)  # it starts at zero
    pictures = torch.randn(2, 3, *model.pretrained_cfg["input_size"][1:])
    model.train()
    for each in model.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.eval()
    with torch.no_grad():
        assert not torch.equal(model(pictures), model(pictures))
        model.eval()
        assert torch.equal(model(pictures), model(pictures))


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["vgg11", "hrnet_w18_small"])
def test_a_model_without_blocks_to_leave_out_says_so_in_one_line(name, pretrained):
    if pretrained and timm.__version__ == "1.0.15":
        pytest.skip("this timm wants its hub before the model is made")
    with pytest.raises(UserError) as raised:
        create_model(name, 3, pretrained=pretrained, drop_path=0.1)
    said = f"drop_path = 0.1: model = '{name}' has no stochastic depth; use --drop-rate, or leave drop_path out"
    assert str(raised.value) == said
