"""Depthwise convolutions in bf16 on a CPU: those whose gradients oneDNN computes slowly stay in fp32."""

from __future__ import annotations

import torch


class Fp32Conv2d(torch.nn.Conv2d):
    """A convolution that autocast on a CPU leaves in fp32; its output has autocast's dtype all the same."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(dtype)


def keep_slow_depthwise_in_fp32(model: torch.nn.Module) -> int:
    """Has the trainable depthwise convolutions of `model` that are strided or wider than 3 run in fp32; says how many.

    For these, oneDNN 3 has no fast bf16 gradient on AVX-512: measured on a Zen 4, 2.4 to 13 times slower than fp32's
    (`benchmarks/test_train_step.py`). Parameters and `state_dict` stay as they are.
    """
    slow = [module for module in model.modules() if _is_slow(module)]
    for module in slow:
        module.__class__ = Fp32Conv2d
    return len(slow)


def _is_slow(module: torch.nn.Module) -> bool:
    return (
        type(module) is torch.nn.Conv2d
        and module.weight.requires_grad
        and module.groups == module.in_channels > 1
        and (max(module.stride) > 1 or max(module.kernel_size) > 3)
    )
