"""Compile a model before an epoch's first step, so that no epoch's rate counts it and a failure loses nothing."""

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

_PASSES = 3  # CUDA graphs: one compiles, one records, one replays


def warm_up(parts: RunParts, say: Callable[[str], None] = lambda line: None) -> None:
    """Compile the model of `parts` for training at the loader's picture size, once. `say` how long it took.

    Weights, statistics and generators stay as they are.
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
                with statistics_kept(state.model):  # as in the second pass of a step
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
    """Run one full batch of black photographs forward and backward."""
    count, step = parts.full_batch, parts.step
    images = torch.zeros((count, side, side, 3), dtype=torch.uint8, device=parts.device)
    ids = torch.from_numpy(np.resize(parts.loaders.train.ids, count))
    batch = StepBatch(images, torch.zeros(count, dtype=torch.int64), ids, 0, 0)
    # Not exchanged: a rank that can't compile must not leave the others waiting for its gradients.
    with step.parallel.no_sync() if step.parallel is not None else nullcontext():
        with batches_counted_together(parts.state.norms):  # as in a step: a graph holds only for the same buffers
            loss, _, _ = step.loss(parts.state.model, batch, parts.state.epoch)
        loss.backward()
    # Also between passes: a CUDA graph's gradients can't be added up.
    parts.state.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _unchanged(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Put the buffers of `model` and torch's generators back at the end."""
    before = [each.clone() for each in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for each, values in zip(model.buffers(), before, strict=True):
                    each.copy_(values)
