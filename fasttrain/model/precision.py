"""Choose the precision that a model runs in: fp32, or mixed precision in bf16 or fp16."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from fasttrain.model.depthwise import keep_slow_depthwise_in_fp32

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Precision:
    """The precision of a model's steps: run forward passes in the context `autocast()`, scale the loss with `scaler`.

    `name`: "fp32", "bf16" or "fp16". `scaler`: passes the loss through unless `name` is "fp16". `unavailable`: why this
    is another precision than the settings ask for, or None if it is the same.
    """

    name: str
    autocast: Autocast
    scaler: torch.amp.GradScaler
    unavailable: str | None = None


def choose_precision(model: torch.nn.Module, device: torch.device, amp: bool, dtype: str) -> Precision:
    """Return mixed precision in `dtype` ("bf16" or "fp16") if `amp` is set and `device` is fast at it, else fp32.

    If `dtype` is "bf16" and the GPU only emulates it, return fp16. `unavailable` of the result says why `dtype` isn't
    used. On a CPU, layers of `model` that are slow in 16 bits are changed so that they stay in fp32.
    """
    if not amp:
        return make_precision("fp32", model, device)
    if dtype == "bf16" and _emulates_bf16(device):
        why = f"{torch.cuda.get_device_name(device)} only emulates bf16: training in fp16"
        return replace(make_precision("fp16", model, device), unavailable=why)
    unavailable = amp_problem(device, dtype)
    precision = make_precision(dtype if unavailable is None else "fp32", model, device)
    return replace(precision, unavailable=unavailable)


def make_precision(name: str, model: torch.nn.Module, device: torch.device) -> Precision:
    """Return the precision `name`: "fp32", "bf16" or "fp16".

    For bf16 and fp16 on a CPU, layers of `model` that are slow in 16 bits are changed so that they stay in fp32.
    """
    half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    if half is None:
        return Precision(name, contextlib.nullcontext, scaler)
    if device.type == "cpu":
        keep_slow_depthwise_in_fp32(model)
    return Precision(name, lambda: torch.autocast(device.type, dtype=half), scaler)


def amp_problem(device: torch.device, dtype: str) -> str | None:
    """Return why mixed precision in `dtype` is slow or impossible on `device`, or None if it is fast.

    `dtype`: "bf16" or "fp16".
    On a CPU without AVX-512 or AMX, oneDNN has no kernels for 16 bits, and torch's own kernels are far slower than
    fp32. On MPS, bf16 needs macOS 14, and fp16 needs the loss scaler of torch 2.8.
    """
    if device.type == "mps":
        if dtype == "bf16" and not torch.backends.mps.is_macos_or_newer(14, 0):
            return "bf16 on MPS needs macOS 14: training in fp32"
        if dtype == "fp16" and torch.__version__ < "2.8":
            return f"fp16 on MPS needs torch 2.8, and this is {torch.__version__}: training in fp32"
    if device.type != "cpu" or _cpu_has_kernels(dtype):
        return None
    return f"this CPU ({torch.backends.cpu.get_cpu_capability()}) has no fast {dtype}: training in fp32"


def _emulates_bf16(device: torch.device) -> bool:
    """Return whether `device` is an NVIDIA GPU older than Ampere, such as a V100 or T4, which only emulates bf16."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0)


def _cpu_has_kernels(dtype: str) -> bool:
    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported")())
