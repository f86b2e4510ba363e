"""Trace the GPU's work with torch.profiler, and count kernels, launches and copies in the trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_STAGED = 64 << 10  # bytes: a smaller copy is staged by the driver, and the host goes on


@dataclass(frozen=True)
class Traced:
    """The counts of a trace.

    `kernels`: the kernels that ran on the GPU. `launches`: the host's launches (a CUDA graph of many kernels is one).
    `busy_ms`: the milliseconds in which the GPU worked. `pageable`: the copies to the GPU for which the host waits,
    because they are large and come from memory that isn't page-locked.
    """

    kernels: int
    launches: int
    busy_ms: float
    pageable: int

    def per(self, steps: int) -> dict[str, float]:
        """Return kernels, launches and busy milliseconds per step, if `steps` steps were traced."""
        return {
            "kernels": self.kernels / steps,
            "launches": self.launches / steps,
            "GPU ms": self.busy_ms / steps,
        }


def trace(work: Callable[[], Any], file: Path) -> Traced:
    """Run `work` under torch's profiler, write the trace to `file`, and return its counts."""
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    if cuda:
        torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        work()
        if cuda:
            torch.cuda.synchronize()
    profiler.export_chrome_trace(str(file))
    return read_trace(json.loads(file.read_text())["traceEvents"])


def read_trace(events: list[dict[str, Any]]) -> Traced:
    """Return the counts of `events`, the "traceEvents" of a Chrome trace."""
    spans = sorted((each["ts"], each["ts"] + each.get("dur", 0)) for each in events if each.get("cat") in _ON_GPU)
    busy, until = 0.0, float("-inf")
    for begin, end in spans:
        busy += max(end - max(begin, until), 0.0)
        until = max(until, end)
    host = [str(each.get("name")) for each in events if each.get("cat") in ("cuda_runtime", "cuda_driver")]
    return Traced(
        kernels=sum(each.get("cat") == "kernel" for each in events),
        launches=sum("Launch" in name for name in host),
        busy_ms=busy / 1e3,
        pageable=sum(
            "Pageable -> Device" in str(each.get("name")) and each.get("args", {}).get("bytes", 0) > _STAGED
            for each in events
        ),
    )
