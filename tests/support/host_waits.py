"""A GPU on paper, and a count of what the host would wait for there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)


@contextmanager
def fake_gpu() -> Iterator[Counter[str]]:
    """Inside it, tensors have shapes and devices but no values, and `GPU` is there. Yield how often the host waited.

    It waits for each value that it reads, and for each copy that it didn't ask to overlap. A value that is read is 1.
    """
    if torch.__version__ < (2, 7):
        pytest.skip(f"torch {torch.__version__} asks the driver about a tensor on paper; 2.7 doesn't")
    waits: Counter[str] = Counter()
    pinning = mock.patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone)  # a real one needs a driver
    with pinning, FakeTensorMode(allow_non_fake_inputs=True), _Counting(waits):
        yield waits


class _Counting(TorchDispatchMode):
    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            if args[0].is_cuda:
                self._waits["read"] += 1
            return 1
        made = function(*args, **kwargs)
        moved = function is torch.ops.aten._to_copy.default and made.is_cuda != args[0].is_cuda
        if moved and not kwargs.get("non_blocking"):
            self._waits["copy"] += 1
        return made
