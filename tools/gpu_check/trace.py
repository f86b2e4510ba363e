"""Read what the GPU did from a trace of torch.profiler."""

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
    """Counts and milliseconds of what was traced.

    `kernels` ran on the GPU, by `launches` of the host (a CUDA graph is one). `busy_ms` is the time in which the GPU
    did something. `pageable` copies to the GPU came from memory that is not page-locked, and are so large that the host
    waits.
    """

    kernels: int
    launches: int
    busy_ms: float
    pageable: int

    def per(self, steps: int) -> dict[str, float]:
        """Return the figures of one of `steps` steps."""
        return {
            "kernels": self.kernels / steps,
            "launches": self.launches / steps,
            "GPU ms": self.busy_ms / steps,
        }


def trace(work: Callable[[], Any], file: Path) -> Traced:
    """Run `work` under the profiler, which writes its trace to `file`, and count what the trace holds."""
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
    """Count what `events` of a Chrome trace hold."""
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
