"""Whether an error says that memory ran out."""

from __future__ import annotations

import torch

from fasttrain.errors import no_memory


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's, and the host's where a limit refuses it. (Without a limit the kernel kills, and nobody is told.)"""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and no_memory(str(error))
    )
