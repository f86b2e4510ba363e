"""Keep depthwise convolutions in fp32 on a CPU if oneDNN computes their bf16 gradients slowly."""

from __future__ import annotations

import torch


class Fp32Conv2d(torch.nn.Conv2d):
    """A convolution that computes in fp32 under CPU autocast, but returns autocast's dtype."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(dtype)


def keep_slow_depthwise_in_fp32(model: torch.nn.Module) -> int:
    """Make depthwise convolutions of `model` run in fp32 if their bf16 gradients are slow on CPUs. Return how many.

    The slow ones are trainable and have a stride above 1 or a kernel wider than 3. For them oneDNN 3 has no fast bf16
    gradient on AVX-512. On a Zen 4 the gradient took 2.4 to 13 times as long as in fp32
    (`benchmarks/test_train_step.py`). Parameters and `state_dict` don't change.
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
