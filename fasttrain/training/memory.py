"""Whether an error says that memory ran out, and giving memory back."""

from __future__ import annotations

import ctypes

import torch

from fasttrain.errors import no_memory


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's, and the host's where a limit refuses it. (Without a limit the kernel kills, and nobody is told.)"""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and no_memory(str(error))
    )


def give_back_heap() -> None:
    """Gives the heap's free end back to the system, where `keep_freed_memory` has glibc keep it: under a limit oneDNN
    would find no room for the code of another shape's kernels."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
