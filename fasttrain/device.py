"""The device: which one to use, how to compile for it, and how to keep its memory."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys

import torch

from fasttrain.cores import usable_cores
from fasttrain.errors import UserError
from fasttrain.machine import c_function
from fasttrain.text import nearest

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h; a threshold of -1 is the greatest size_t


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. UserError for what this machine lacks."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    found = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if found is None:
        kinds = ("auto", "cpu", "cuda", "mps")
        raise UserError(
            f"device = '{name}' is not one of auto, cpu, cuda, cuda:N, mps{nearest(name.strip().lower(), [*kinds])}"
        )
    kind, index = found[1], int(found[2] or 0)
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if index >= have:
        number = f"{have} {kind.upper()} device{'' if have == 1 else 's'}"
        raise UserError(f"device = '{name}': this machine has {number}; use --device {kind if have else 'auto'}")
    return torch.device(kind) if found[2] is None or kind == "cpu" else torch.device(kind, index)


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
    """TF32 for matrix products, as convolutions have it by default; full fp32 where `deterministic`."""
    torch.set_float32_matmul_precision("highest" if deterministic else "high")


def compile_in_place(model: torch.nn.Module, device: torch.device, choice: str, mode: str, deterministic: bool) -> bool:
    """Has `model` run compiled from its first call on, with the same parameters, names and state_dict; says if so.

    `choice`: "on", "off", or "auto": on CUDA, unless `deterministic`; there what can't be compiled runs as it is.
    `mode` is torch.compile's. Copies of `model` (an EMA's) are not compiled. UserError where "on" can't be had.
    """
    if choice == "off" or (choice == "auto" and (deterministic or not _compile_pays(device))):
        return False
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise UserError("compile = 'on' needs a C++ compiler on a CPU; install g++ or use --compile off")
    import torch._dynamo

    # Training and evaluation, the short last batch and progressive resizing have a graph each: 8 would be too few.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = choice == "auto"
    model.compile(mode=mode)
    return True


def _compile_pays(device: torch.device) -> bool:
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)  # Triton's least


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
