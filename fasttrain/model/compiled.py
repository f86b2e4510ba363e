"""Run a model's full batches through torch.compile with static shapes, or without it if compiling fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from fasttrain.errors import UserError, one_line

_UNCOMPILED = "the model runs uncompiled, which is slower"
_LONGEST_REASON = 200  # characters; some messages contain the entire graph


def compile_in_place(
    model: torch.nn.Module,
    device: torch.device,
    choice: str,
    mode: str,
    deterministic: bool,
    *,
    batch_size: int,
    warn: Callable[[str], None],
) -> bool:
    """Make `model` compile itself in its first call. Return whether it will, False if it stays uncompiled.

    `choice`: "on", "off" or "auto", which compiles on CUDA unless `deterministic` is set. `mode`: the argument of
    torch.compile. `warn`: called with a line if `choice` is "auto" and compiling is impossible or fails, in which case
    the model runs uncompiled. Raises UserError if `choice` is "on" and a compiler is missing; if compiling fails, the
    first call of the model raises it.

    Each image size gets a static graph for batches of `batch_size`. Other batches, such as an epoch's last one, run
    uncompiled, and so do copies of `model`, such as the one that EMA averages. The model's parameters, their names and
    its state_dict stay the same.
    """
    if choice == "off" or (choice == "auto" and (deterministic or not _compile_pays(device))):
        return False
    if choice == "auto" and (problem := _compile_problem(device)):
        warn(f"compile: {problem}; {_UNCOMPILED}")
        return False
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise UserError(
            "compile = 'on': torch.compile needs a C++ compiler on a CPU, and there is none; install g++ or use "
            "--compile off"
        )
    import torch._dynamo

    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # torch 2.6
    # Each size of progressive resizing has a graph for training and one for evaluation. The default of 8 is too low.
    setattr(torch._dynamo.config, limit, 64)
    compiled = torch.compile(model._call_impl, mode=mode, dynamic=False)
    # `Module.compile` sets this attribute, too. Copies of the model don't inherit it.
    model._compiled_call_impl = _FullBatches(model, compiled, batch_size, warn if choice == "auto" else None)
    return True


def stop_compiling(model: torch.nn.Module, error: Exception) -> None:
    """Make the compiled `model` run uncompiled from now on, and warn that compiling raised `error`.

    Raises UserError instead if `compile_in_place` was called with the choice "on".
    """
    call = model._compiled_call_impl
    assert isinstance(call, _FullBatches)
    cause = getattr(error, "inner_exception", error)
    reason = f"torch.compile failed ({type(cause).__name__}: {one_line(cause)[:_LONGEST_REASON]})"
    if call.warn is None:
        raise UserError(f"compile = 'on': {reason}; use --compile off") from error
    model._compiled_call_impl = None
    call.warn(f"compile: {reason}; {_UNCOMPILED}")


class _FullBatches:
    """A model's call that runs full batches compiled and all others uncompiled."""

    def __init__(
        self,
        model: torch.nn.Module,
        compiled: Callable[..., Any],
        batch_size: int,
        warn: Callable[[str], None] | None,
    ) -> None:
        self.warn = warn
        self._model, self._compiled, self._batch_size = model, compiled, batch_size

    def __call__(self, images: torch.Tensor) -> Any:
        if len(images) == self._batch_size:
            try:
                return self._compiled(images)
            except torch._dynamo.exc.TorchDynamoException as error:
                stop_compiling(self._model, error)
        return self._model._call_impl(images)


def _compile_pays(device: torch.device) -> bool:
    return device.type == "cuda"


def _compile_problem(device: torch.device) -> str | None:
    """Return why the GPU `device` can't run compiled models; None if it can, or if `device` is not a CUDA GPU."""
    if device.type != "cuda":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton, which torch.compile needs on a GPU, is not installed"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return f"triton does not compile for {torch.cuda.get_device_name(device)}"
    return None
