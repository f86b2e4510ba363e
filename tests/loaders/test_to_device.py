"""Copies to the GPU keep the order and the pixels."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fasttrain.loaders.to_device import copied_ahead


def numbered(count):
    for number in range(count):
        images = torch.full((2, 64, 64, 3), number, dtype=torch.uint8)
        yield (images.pin_memory() if torch.cuda.is_available() else images), [(number, "why")]


def test_on_a_cpu_nothing_is_touched_or_taken_early():
    batches = list(numbered(3))
    source = iter(batches)
    copied = copied_ahead(source, "cpu")
    assert next(copied)[0] is batches[0][0]
    assert len(list(source)) == 2


def test_what_lies_on_the_gpu_already_is_neither_copied_nor_taken_early():
    """A batch taken early would have the model wait for the next one before it works on this one."""
    with FakeTensorMode():
        batches = [
            (torch.empty(2, 8, 8, 3, dtype=torch.uint8, device="cuda"), [(number, "why")]) for number in range(3)
        ]
    source = iter(batches)
    copied = copied_ahead(source, "cuda")
    images, bad = next(copied)
    assert images is batches[0][0] and bad is batches[0][1]
    assert len(list(source)) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("count", [0, 1, 5])
def test_on_a_gpu_order_and_pixels_stay(count):
    copied = list(copied_ahead(numbered(count), "cuda"))
    assert [int(images.sum()) for images, _ in copied] == [2 * 64 * 64 * 3 * number for number in range(count)]
    assert [bad for _, bad in copied] == [[(number, "why")] for number in range(count)]
    assert all(images.is_cuda for images, _ in copied)
