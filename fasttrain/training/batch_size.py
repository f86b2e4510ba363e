"""`--batch-size auto`: find the fastest batch size by trial, and suggest a size that fits when memory runs out."""

from __future__ import annotations

import copy
import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.utils import decay_batch_step

from fasttrain.device import release_memory, synchronize
from fasttrain.errors import OutOfMemory, UserError
from fasttrain.memory import free_memory, give_back_heap, peak_memory, resident_memory
from fasttrain.model.freeze import keep_frozen
from fasttrain.ranks import StepAgreement
from fasttrain.training.memory import is_out_of_memory
from fasttrain.training.optim import Schedule
from fasttrain.training.resume import RunStart
from fasttrain.training.step import StepBatch

if TYPE_CHECKING:
    from fasttrain.training.parts import RunParts

log = logging.getLogger("fasttrain")

Fits = Callable[[int], float]
"""Photographs per second at a batch size; 0 if that size does not fit."""

_FIRST = 8
_STEPS_AN_EPOCH = 8  # at least; with fewer there is little to schedule
_CUDA_SHARE = 0.92  # the share of the device's memory for trials; the rest is for fragmentation, NCCL and DDP
_CPU_SHARE = 0.8  # the share of the free memory to use
_GAIN = 1.05  # minimum speedup for which the batch is doubled; less is noise, and larger batches learn more slowly
_MEASURABLE = 256 << 20  # bytes; smaller growth may be what Python and its libraries allocate
_TRIAL = {"pretrained": False, "weights": None, "compile": "off", "head_epochs": 0, "refit": False}


def with_fitting_batch(start: RunStart, make: Callable[[RunStart], RunParts]) -> tuple[RunStart, str]:
    """Replace batch_size = "auto" in `start` by a number found by trial.

    Returns `start` with that number, which is the same on all ranks, and a line to print with the number and the reason
    for it. `make` builds the parts of a run, which are used for the trial and then thrown away. Raises UserError if not
    even one photograph fits into memory, or if the device is neither CUDA nor a CPU.
    """
    config = start.config.model_copy(update={**_TRIAL, "batch_size": _FIRST})
    parts = make(replace(start, config=config, model=copy.deepcopy(start.model)))
    ranks, device = parts.ranks, parts.device
    try:
        most = _rounded(min(max(len(parts.loaders.train.ids) // (ranks.size * _STEPS_AN_EPOCH), 1), 65_536))
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(_CUDA_SHARE, device)
            size = fastest_that_fits(fitting(parts), most)
        elif device.type == "cpu":
            size = largest_by_growth(fitting(parts), most, ranks.local_size)
        else:
            raise UserError(f"batch_size = 'auto' is for cuda and cpu, not {device}; give a number")
        size = min(ranks.gather(size))
    finally:
        parts.loaders.close()
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    del parts
    gc.collect()
    release_memory(device)
    why = f"more would leave fewer than {_STEPS_AN_EPOCH} steps an epoch"
    if size < most:
        why = f"the fastest tried on {device}" if device.type == "cuda" else "about the most that fits into memory"
    update = {"batch_size": size}
    return replace(start, config=start.config.model_copy(update=update)), f"batch size: {size} ({why})"


def fastest_that_fits(fits: Fits, most: int) -> int:
    """Return the batch size, at most `most`, at which a GPU trains fastest.

    `fits` returns the photographs per second at a batch size, or 0 if that size does not fit into memory. Starting at
    8, the size is doubled as long as each doubling makes training at least 5 % faster. If a doubled size does not fit,
    the size halfway down is tried: 8, 16, 32, 64 (does not fit), 48. If even 8 does not fit, smaller sizes are tried.
    Raises UserError if not even one photograph fits.
    """
    size = min(_FIRST, most)
    rate = fits(size)
    if not rate:
        return largest_below(fits, size)
    while size < most:
        larger = min(2 * size, most)
        faster = fits(larger)
        if not faster:
            between = decay_batch_step(larger)
            return between if between > size and fits(between) >= _GAIN * rate else size
        if faster < _GAIN * rate:
            return size
        size, rate = larger, faster
    return size


def largest_below(fits: Fits, failed: int) -> int:
    """Return the greatest of timm's batch sizes below `failed` (48, 32, 24, 16, …) that fits into memory.

    `fits` returns 0 for a batch size that does not fit. Raises UserError if not even one photograph fits.
    """
    size = failed
    while size := decay_batch_step(size):
        if fits(size):
            return size
    raise UserError(
        "out of memory even with a batch of one photograph: use a smaller --image-size or --model, or "
        "--grad-checkpointing"
    )


def largest_by_growth(
    fits: Fits,
    most: int,
    processes: int = 1,
    *,
    peak: Callable[[], int] = peak_memory,
    limit: Callable[[], int] = lambda: resident_memory() + int(_CPU_SHARE * free_memory()),
) -> int:
    """Return the greatest batch size, up to `most`, that fits into a CPU's memory.

    The size is doubled until memory grows measurably. The size that fits is then computed from that growth. It is not
    tried out, because the kernel kills a process that takes too much memory, without an error before. The first growth
    is ignored, because the peak before it may come from reading the data and not from a step.

    `fits` runs a few steps at a batch size, and returns 0 if memory ran out. `peak` returns this process's peak memory
    so far, and `limit` the memory that this process may have, both in bytes. `processes` processes share what is left
    up to the limit. Raises UserError if not even one photograph fits.
    """
    size, grown = min(2, most), 0
    if not fits(size):
        return largest_below(fits, size)
    while size < most:
        before, larger = peak(), min(2 * size, most)
        if before + 2 * grown > limit() or not fits(larger):
            return size
        previous, grown = grown, peak() - before
        if grown >= _MEASURABLE and previous:
            each = grown / (larger - size)
            spare = (limit() - peak()) / processes
            return min(max(_rounded(int(larger + spare / each)), 1), most)
        size = larger
    return size


def fitting(parts: RunParts) -> Fits:
    """Return a function from a batch size to the photographs per second that `parts` trains on at that size.

    The function returns 0 if the size does not fit into memory. Each call changes the weights of `parts`.
    """

    def fits(size: int) -> float:
        try:
            with _loader_memory_held(parts, size):
                return _try_steps(parts, size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _free_frames(error)
        finally:
            parts.state.optimizer.zero_grad(set_to_none=True)
            release_memory(parts.device)
        return 0.0

    return fits


def too_large(error: Exception, parts: RunParts, run: Path) -> UserError | None:
    """Return an error that suggests a smaller batch size, if `error` means that memory ran out.

    Returns None for any other error, and for host memory that ran out while training on a GPU. Smaller sizes are tried
    with `parts`, the parts of the failed run: their weights are changed and their loaders closed. `run`: the run's
    folder, for the command in the message.
    """
    if not is_out_of_memory(error):
        return None
    if parts.device.type == "cuda" and not (isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error)):
        return None  # the host's memory ran out: a smaller batch does not help
    _free_frames(error)
    parts.loaders.close()
    parts.state.optimizer.zero_grad(set_to_none=True)
    release_memory(parts.device)
    try:
        size = largest_below(fitting(parts), parts.batch_size)
    except UserError as none:
        if parts.device.type != "cpu" or parts.batch_size == 1:
            return none
        # Under `ulimit -v` the memory mapped by the failed step stays mapped, so that further trials would fail, too.
        half = decay_batch_step(parts.batch_size)
        return OutOfMemory(
            f"batch_size = {parts.batch_size} is too large for the memory of cpu; try a smaller one: "
            f"fasttrain train --resume {run} --batch-size {half}, or start a new run with --batch-size auto"
        )
    except Exception:  # with so little memory left anything can fail, and the first error is more useful
        log.exception("no batch that fits was found")
        return None
    return OutOfMemory(
        f"batch_size = {parts.batch_size} is too large for the memory of {parts.device}: {size} fits; resume with: "
        f"fasttrain train --resume {run} --batch-size {size}, or start a new run with --batch-size {size} or auto"
    )


@contextmanager
def _loader_memory_held(parts: RunParts, size: int) -> Iterator[None]:
    """Hold the memory that the loader needs for batches of `size`, and limit torch to a share of the rest of a GPU.

    On other devices torch is not limited.
    """
    device = parts.device
    with parts.loaders.train.holding_memory(size):
        if device.type != "cuda":
            yield
            return
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        torch.cuda.set_per_process_memory_fraction(max(_CUDA_SHARE - others / total, 0.0), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def _try_steps(parts: RunParts, size: int) -> float:
    """Run a few steps and return photographs per second. The first steps are not timed.

    The optimizer allocates its moments in the first step. A GPU also selects its kernels then, so it runs more steps.
    """
    optimizer, side = parts.state.optimizer, parts.config.image_size
    still = Schedule(
        optimizer, "constant", learning_rate=1.0, epochs=1, steps_per_epoch=1, patience=0, factor=0.5, warmup_epochs=0
    )
    state = replace(parts.state, schedule=still)
    # Leave out the other ranks: they may be able to take a batch that this one can't.
    step = replace(parts.step, parallel=None, ranks=1)
    ids = torch.from_numpy(np.resize(parts.loaders.train.ids, size))
    labels = torch.from_numpy(parts.shards.labels(ids.numpy()))
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    # A run holds all batches of a step, on the device if that is CUDA. It is enough to try one of them.
    copies = [images.to(parts.device, copy=True) for _ in range(parts.step.accumulate)]
    batches = [StepBatch(each, labels, ids, 0, size) for each in copies]
    state.model.train()
    keep_frozen(step.frozen)
    for each in state.model.modules():
        if isinstance(each, torch.nn.SyncBatchNorm):
            each.eval()  # in training mode it waits for the other ranks
    for steps in (2, 5) if parts.device.type == "cuda" else (1, 1):
        began = time.perf_counter()
        for _ in range(steps):
            step(state, batches[:1], StepAgreement(*step.size(batches[:1]), None))
        synchronize(parts.device)
    return steps * size / (time.perf_counter() - began)


def _free_frames(error: BaseException | None) -> None:
    """Free what the stack frames of `error` still hold: the activations of the failed step."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()
    give_back_heap()


def _rounded(size: int) -> int:
    """Return the largest of 1, 2, 3, 4, 6, 8, 12, 16, … that is not above `size`."""
    rounded: int = decay_batch_step(size + 1)
    return rounded
