"""Compile a model before an epoch's first step, so that no measured rate includes the compilation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from fasttrain.errors import FasttrainError
from fasttrain.model.batch_norm import batches_counted_together, statistics_kept
from fasttrain.model.compiled import stop_compiling
from fasttrain.model.freeze import keep_frozen
from fasttrain.training.memory import is_out_of_memory
from fasttrain.training.parts import RunParts
from fasttrain.training.step import StepBatch

_PASSES = 3  # CUDA graphs: the first pass compiles, the second records, the third replays


def warm_up(parts: RunParts, say: Callable[[str], None] = lambda line: None) -> None:
    """Compile the model of `parts` for training at the loader's current image size, if that has not been done before.

    Does nothing for a model that isn't compiled. `say` receives a line with the seconds that it took. Weights,
    BatchNorm statistics and random generators stay unchanged.
    """
    state, side = parts.state, parts.state.loader.settings.image_size
    if not parts.compiled or (side, state.phase) in parts.warm:
        return
    parts.warm.add((side, state.phase))
    began = time.perf_counter()
    state.model.train()
    keep_frozen(parts.step.frozen)
    try:
        with _unchanged(state.model, parts.device):
            for _ in range(_PASSES):
                _pass(parts, side)
            if parts.step.sam:
                with statistics_kept(state.model):  # like the second pass of a step
                    _pass(parts, side)
    except Exception as error:  # compilers raise anything
        if isinstance(error, FasttrainError) or is_out_of_memory(error):
            raise
        stop_compiling(state.model, error)
    finally:
        state.optimizer.zero_grad(set_to_none=True)
    parts.compiled = state.model._compiled_call_impl is not None
    if parts.compiled:
        say(f"compile: {side} px, {time.perf_counter() - began:.1f} s")
    else:
        parts.fold_frozen()


def _pass(parts: RunParts, side: int) -> None:
    """Run one full batch of black images forward and backward."""
    count, step = parts.full_batch, parts.step
    images = torch.zeros((count, side, side, 3), dtype=torch.uint8, device=parts.device)
    ids = torch.from_numpy(np.resize(parts.loaders.train.ids, count))
    batch = StepBatch(images, torch.zeros(count, dtype=torch.int64), ids, 0, 0)
    # Gradients are not exchanged: a rank that can't compile must not block the others.
    with step.parallel.no_sync() if step.parallel is not None else nullcontext():
        with batches_counted_together(parts.state.norms):  # like a step: a graph is only valid for the same buffers
            loss, _, _ = step.loss(parts.state.model, batch, parts.state.epoch)
        loss.backward()
    # Clear the gradients between passes, too: those of a CUDA graph can't be added up.
    parts.state.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _unchanged(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the buffers of `model` and torch's generators at the end."""
    before = [each.clone() for each in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for each, values in zip(model.buffers(), before, strict=True):
                    each.copy_(values)
