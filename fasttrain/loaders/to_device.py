"""Batches on their way to the GPU: one is copied on a stream of its own while the model works on the one before."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

from fasttrain.loaders.plan import BadSamples

if TYPE_CHECKING:
    import torch


def empty_pictures(shape: tuple[int, ...], device: str) -> torch.Tensor:
    """Return uint8 memory of the host, uninitialized: page-locked where `device` is CUDA.

    A copy to the GPU from other memory makes the host wait. Torch keeps page-locked memory and gives it out again once
    such copies are done.
    """
    import torch

    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.startswith("cuda"))


def copied_ahead(
    batches: Iterable[tuple[torch.Tensor, BadSamples]], device: str
) -> Generator[tuple[torch.Tensor, BadSamples], None, None]:
    """The same batches, in order, on `device`; elsewhere than on CUDA, and where they are there already, untouched.

    Copies overlap with work only from page-locked memory, `empty_pictures`. One batch more than the consumer holds lies
    on the device.
    """
    import torch

    if not device.startswith("cuda"):
        yield from batches
        return
    stream = None
    waiting: list[tuple[torch.Tensor, BadSamples, torch.cuda.Event]] = []
    for images, bad in batches:
        if images.is_cuda:
            yield images, bad
            continue
        stream = stream or torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            moved = images.to(device, non_blocking=True)
            waiting.append((moved, bad, stream.record_event()))
        if len(waiting) > 1:
            moved, bad, copied = waiting.pop(0)
            yield received(moved, copied), bad
    for moved, bad, copied in waiting:
        yield received(moved, copied), bad


def received(images: torch.Tensor, ready: torch.cuda.Event) -> torch.Tensor:
    """Return `images`, made on another stream, for use on the current one, which waits until they are `ready`."""
    import torch

    reader = torch.cuda.current_stream(images.device)
    reader.wait_event(ready)
    images.record_stream(reader)  # else its memory may be given out again while the model still reads it
    return images
