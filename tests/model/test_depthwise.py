"""Convolutions that stay in fp32 under a CPU's autocast: which they are, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from fasttrain.model.depthwise import Fp32Conv2d, keep_slow_depthwise_in_fp32
from fasttrain.model.factory import create_model
from fasttrain.model.freeze import freeze_blocks


def convolutions(model: torch.nn.Module) -> list[torch.nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]


@pytest.mark.parametrize("name", ["mobilenetv2_035", "efficientnet_b0"])
def test_strided_and_wide_depthwise_ones_are_chosen(name):
    model = create_model(name, 3)
    names = list(model.state_dict())
    count = keep_slow_depthwise_in_fp32(model)
    chosen = [each for each in convolutions(model) if type(each) is Fp32Conv2d]
    assert len(chosen) == count > 0 and list(model.state_dict()) == names
    for each in convolutions(model):
        wanted = each.groups == each.in_channels > 1 and (each.stride[0] > 1 or each.kernel_size[0] > 3)
        assert (type(each) is Fp32Conv2d) == wanted


def test_frozen_ones_need_no_gradient_and_stay():
    model = create_model("mobilenetv2_035", 3)
    freeze_blocks(model, 17)
    assert keep_slow_depthwise_in_fp32(model) == 0


@pytest.mark.slow
def test_under_autocast_only_their_own_dtype_changes():
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv2_035", num_classes=3).eval()
    model = copy.deepcopy(plain)
    keep_slow_depthwise_in_fp32(model)
    pictures = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(pictures), plain(pictures)), "without autocast nothing is different"
    inside: list[tuple[torch.dtype, torch.dtype]] = []
    first = next(each for each in convolutions(model) if type(each) is Fp32Conv2d)
    run = torch.nn.Conv2d._conv_forward

    def seen(self, given, weight, bias):
        result = run(self, given, weight, bias)
        if self is first:
            inside.append((given.dtype, result.dtype))
        return result

    first._conv_forward = seen.__get__(first)
    outside: list[torch.dtype] = []
    first.register_forward_hook(lambda module, given, result: outside.append(result.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, expected = model(pictures), plain(pictures)
    assert inside == [(torch.float32, torch.float32)] and outside == [torch.bfloat16]
    torch.testing.assert_close(mixed.float(), expected.float(), rtol=0.1, atol=0.02)
    copied = copy.deepcopy(model)
    assert sum(type(each) is Fp32Conv2d for each in convolutions(copied)) > 0, "the EMA's copy has them too"
