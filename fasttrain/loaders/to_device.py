"""Move batches to the GPU. Each batch is copied on a separate stream while the model works on the previous one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

from fasttrain.loaders.plan import BadSamples

if TYPE_CHECKING:
    import torch


def empty_pictures(shape: tuple[int, ...], device: str) -> torch.Tensor:
    """Return an uninitialized uint8 tensor of `shape` on the host, in page-locked memory if `device` is CUDA.

    A copy to the GPU from other memory makes the host wait. Torch reuses page-locked memory once copies from it are
    done.
    """
    import torch

    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.startswith("cuda"))


def copied_ahead(
    batches: Iterable[tuple[torch.Tensor, BadSamples]], device: str
) -> Generator[tuple[torch.Tensor, BadSamples], None, None]:
    """Yield the same batches, in order, on `device`.

    A batch that is already on a GPU is yielded unchanged. If `device` is not CUDA, all batches are. A copy overlaps
    with the consumer's work only if the batch is in page-locked memory (`empty_pictures`). The device holds one batch
    more than the consumer.
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
    """Make the current stream wait for `images`, which are made on another stream, and return them.

    `ready`: an event that is recorded on the other stream when the images are complete.
    """
    import torch

    reader = torch.cuda.current_stream(images.device)
    reader.wait_event(ready)
    images.record_stream(reader)  # otherwise its memory may be reused while the model still reads it
    return images
