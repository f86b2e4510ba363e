"""TF32 on a CPU: products and convolutions round their factors to ten bits where torch allows a GPU to do so."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """Return float32 values with 10 bits of mantissa in place of 23, the nearest ones."""
    return ((tensor.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).reshape(tensor.shape)


class EmulatedTF32(TorchDispatchMode):
    """Inside it, torch's settings of precision have the effect that they have on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        convolves = function.overloadpacket is torch.ops.aten.convolution and torch.backends.cudnn.allow_tf32
        multiplies = function.overloadpacket in _PRODUCTS and torch.get_float32_matmul_precision() != "highest"
        if convolves or multiplies:
            args = [self._rounded(each) for each in args]
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _rounded(value: Any) -> Any:
        fits = isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.ndim > 1
        return rounded(value) if fits else value
