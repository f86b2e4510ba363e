"""Measure how fast a model trains on this machine, with random pixels, so that no loader slows it down."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fasttrain.device import release_memory, synchronize
from fasttrain.model.factory import create_model
from fasttrain.model.input_size import img_size_for
from fasttrain.model.precision import choose_precision

SECONDS = 3.0  # spent on a model after its first step
_CLASSES = 100


def training_rate(
    name: str, side: int, device: torch.device, *, batch_size: int = 32, amp: bool = False
) -> float | None:
    """Return the speed of training the timm model `name` in images of `side` px per second; None if memory runs out.

    Training steps (forward, backward, an SGD update) are repeated for `SECONDS`. The first step, in which libraries
    choose their kernels, doesn't count, unless it alone takes longer than that. `amp`: train in bf16 if `device` is
    fast at it. Raises UserError if there is no such model, or if it doesn't accept this size.
    """
    try:
        model = create_model(name, _CLASSES, img_size=img_size_for(name, side))
        model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        precision = choose_precision(model, device, amp, "bf16")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        pictures = torch.randn(batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
        labels = torch.randint(_CLASSES, (batch_size,), device=device)

        def step() -> None:
            with precision.autocast():
                loss = torch.nn.functional.cross_entropy(model(pictures), labels)
            precision.scaler.scale(loss).backward()
            precision.scaler.step(optimizer)
            precision.scaler.update()
            optimizer.zero_grad()

        first = _time(step, device)
        if first > SECONDS:
            return batch_size / first
        steps, spent = 0, 0.0
        while spent < SECONDS:
            spent += _time(step, device)
            steps += 1
        return steps * batch_size / spent
    except (torch.OutOfMemoryError, MemoryError):
        return None
    finally:
        release_memory(device)


def _time(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - began
