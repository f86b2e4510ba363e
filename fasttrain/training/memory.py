"""Recognize errors that mean that memory ran out."""

from __future__ import annotations

import torch

from fasttrain.errors import no_memory


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that the device's or the host's memory ran out.

    Without a limit on the host's memory, the kernel kills the process and there is no error.
    """
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and no_memory(str(error))
    )
