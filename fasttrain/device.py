"""Choose the device to train on, set its precision, and manage its memory."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fasttrain.cores import usable_cores
from fasttrain.errors import UserError
from fasttrain.machine import c_function
from fasttrain.text import counted, nearest

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h; a threshold of -1 is the greatest size_t


def choose_device(name: str) -> torch.device:
    """Return the torch device for `name`: auto, cpu, cuda, cuda:N or mps.

    "auto" chooses CUDA, then MPS, then the CPU. A CUDA device always has its number, which some torch functions need.
    Raises UserError for an unknown name, or if this machine lacks the device.
    """
    if name == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        name = "cuda" if cuda else "mps" if mps else "cpu"
    found = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if found is None:
        kinds = ("auto", "cpu", "cuda", "mps")
        raise UserError(
            f"device = '{name}' is not one of auto, cpu, cuda, cuda:N, mps{nearest(name.strip().lower(), [*kinds])}"
        )
    kind = found[1]
    # A program that has used CUDA already may have selected another device than the first.
    current = torch.cuda.current_device() if kind == "cuda" and torch.cuda.is_initialized() else 0
    index = current if found[2] is None else int(found[2])
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if index >= have:
        number = counted(have, f"{kind.upper()} device")
        raise UserError(f"device = '{name}': this machine has {number}; use --device {kind if have else 'auto'}")
    return torch.device("cuda", index) if kind == "cuda" else torch.device(kind)


def make_current(device: torch.device) -> torch.device:
    """Make `device` torch's current CUDA device, which page-locked memory and kernels use by default. Return it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished all queued work. Return at once for a CPU, which has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def choose_workers(workers: int | None) -> int:
    """Return `workers`, or if it is None, one worker for each core that this process may use."""
    return usable_cores() if workers is None else workers


def copy_to(device: torch.device | str, tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` on `device`. Copy asynchronously, from page-locked memory, if `device` is CUDA.

    Copies to other devices are finished on return: an asynchronous copy to MPS may read memory that was already freed
    or reused (pytorch/pytorch#189690).
    """
    to_cuda = torch.device(device).type == "cuda"
    if to_cuda and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=to_cuda)


def fast_math(deterministic: bool) -> None:
    """Let CUDA's matrix products and convolutions use TF32, or make them use full fp32 if `deterministic` is set."""
    _set_precision("highest" if deterministic else "high", tf32_convolutions=not deterministic)


@contextmanager
def full_precision() -> Iterator[None]:
    """Return a context in which CUDA computes in full fp32. TF32 keeps three digits, too few to compare results."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_precision("highest", tf32_convolutions=False)
    try:
        yield
    finally:
        _set_precision(products, tf32_convolutions=convolutions)


def _set_precision(products: str, *, tf32_convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    # Set the older switch first: torch 2.9 refuses to read it while it contradicts the newer ones.
    torch.backends.cudnn.allow_tf32 = tf32_convolutions
    for name in ("conv", "rnn"):
        if (switch := getattr(torch.backends.cudnn, name, None)) is not None:
            switch.fp32_precision = "tf32" if tf32_convolutions else "ieee"


def memory_peak(device: torch.device) -> int | None:
    """Return the peak number of bytes that torch allocated on a CUDA device since the last call of this function.

    Return None for other devices.
    """
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def keep_freed_memory(device: torch.device) -> bool:
    """Make glibc keep freed memory for the next training step. Return whether glibc accepted the setting.

    By default glibc requests the memory of each activation above 32 MB from the kernel in every step, and the kernel
    clears it page by page. Clearing took a third of a training step with mobilenetv2_100 and batches of 32
    (`benchmarks/test_allocator.py`). The setting lasts until this process ends.

    Do nothing and return False if `device` is not a CPU, if the system is not Linux with glibc, or if the user tunes or
    replaces malloc (`MALLOC_*`, `GLIBC_TUNABLES`, `LD_PRELOAD`).
    """
    chosen = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if device.type != "cpu" or chosen or not sys.platform.startswith("linux"):
        return False
    mallopt = c_function("mallopt")
    if mallopt is None or platform.libc_ver()[0] != "glibc":
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_TOP_PAD, 64 << 20))


def release_memory(device: torch.device) -> None:
    """Free the memory of `device` that torch caches, so that the next model or another program can use it.

    Do nothing for a CPU.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
