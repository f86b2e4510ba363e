"""Seeds, and the states of all random generators that training uses."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed torch (all devices), numpy and random. With `deterministic`, forbid torch's kernels whose results vary."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def seed_rank(rank: int, step: int = 0) -> None:
    """Seed torch's generators so that each rank draws other numbers, for example in dropout.

    The seed is derived from the current one, `rank` and `step`. On rank 0 nothing changes.
    """
    if rank:
        words = np.random.SeedSequence([torch.initial_seed(), rank, step]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))


def rng_state(device: torch.device | None = None) -> dict[str, Any]:
    """Return the states of the generators of torch, CUDA, numpy and random.

    They are tensors and plain data, which torch loads with `weights_only=True`. With `device`, only that device's CUDA
    generator is included, because each rank saves its own; otherwise those of all devices are.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states(device),
        "numpy": (
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            has_gauss,
            gauss,
        ),
        "random": random.getstate(),
    }


def _cuda_states(device: torch.device | None) -> list[torch.Tensor]:
    if device is not None:
        return [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def load_rng_state(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Restore what `rng_state` returned for the same `device`.

    Without a device, CUDA's generators are restored only if the number of devices is the same.
    """
    torch.set_rng_state(state["torch"])
    if device is not None and device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], device)
    elif device is None and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["random"])
