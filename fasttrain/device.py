"""The device: which one to use, how precisely it computes, and how to keep its memory."""

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
from fasttrain.text import nearest

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h; a threshold of -1 is the greatest size_t


def choose_device(name: str) -> torch.device:
    """Return the device `name`: CUDA's always with its number, which some of torch's functions need.

    `auto` takes CUDA, then MPS, then the CPU. Raises UserError for what this machine lacks.
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
    # A program that has used CUDA before may have made another device than the first one the current one.
    current = torch.cuda.current_device() if kind == "cuda" and torch.cuda.is_initialized() else 0
    index = current if found[2] is None else int(found[2])
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if index >= have:
        number = f"{have} {kind.upper()} device{'' if have == 1 else 's'}"
        raise UserError(f"device = '{name}': this machine has {number}; use --device {kind if have else 'auto'}")
    return torch.device("cuda", index) if kind == "cuda" else torch.device(kind)


def make_current(device: torch.device) -> torch.device:
    """Make `device` the one that torch takes where none is named, for page-locked memory and kernels; return it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all that it was given. A CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def choose_workers(workers: int | None) -> int:
    """The number asked for, else one for each core this process may use."""
    return usable_cores() if workers is None else workers


def copy_to(device: torch.device | str, tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` on `device`. Only CUDA copies it while the host goes on, from page-locked memory.

    A copy to MPS that nobody waits for may read memory that is freed or filled again (pytorch/pytorch#189690).
    """
    to_cuda = torch.device(device).type == "cuda"
    if to_cuda and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=to_cuda)


def fast_math(deterministic: bool) -> None:
    """Have CUDA's matrix products and convolutions use TF32, or full fp32 where `deterministic`."""
    _set_precision("highest" if deterministic else "high", tf32_convolutions=not deterministic)


@contextmanager
def full_precision() -> Iterator[None]:
    """Have CUDA's matrix products and convolutions use full fp32: TF32 keeps three digits, too few to compare by."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_precision("highest", tf32_convolutions=False)
    try:
        yield
    finally:
        _set_precision(products, tf32_convolutions=convolutions)


def _set_precision(products: str, *, tf32_convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    # The older switch comes first. Torch 2.9 refuses to read it where it says something else than the newer ones.
    torch.backends.cudnn.allow_tf32 = tf32_convolutions
    for name in ("conv", "rnn"):
        if (switch := getattr(torch.backends.cudnn, name, None)) is not None:
            switch.fp32_precision = "tf32" if tf32_convolutions else "ieee"


def memory_peak(device: torch.device) -> int | None:
    """Peak bytes allocated on a CUDA device since the last call; None elsewhere."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def keep_freed_memory(device: torch.device) -> bool:
    """On a CPU, has glibc keep what a step frees for the next step, for the rest of this process; says if it does.

    Each activation beyond 32 MB is otherwise mapped, cleared page by page by the kernel, and unmapped again in every
    step: with mobilenetv2_100 and batches of 32 that took a third of the time (`benchmarks/test_allocator.py`). Left
    alone where the user tunes or replaces malloc (`MALLOC_*`, `GLIBC_TUNABLES`, `LD_PRELOAD`), and on other systems.
    """
    chosen = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if device.type != "cpu" or chosen or not sys.platform.startswith("linux"):
        return False
    mallopt = c_function("mallopt")
    if mallopt is None or platform.libc_ver()[0] != "glibc":
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_TOP_PAD, 64 << 20))


def release_memory(device: torch.device) -> None:
    """Give cached blocks back: after an out-of-memory error, or to whoever takes the device next."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
