"""`train --profile`: a trace of a few steps of the first epoch, for https://ui.perfetto.dev."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from fasttrain.training.step import DATA

_WAIT, _WARM_UP, _ACTIVE = 5, 2, 3  # batches


class Trace:
    """A context manager that runs torch.profiler over three batches, after five batches of waiting and two of warm-up.

    With gradient accumulation, all batches of a step are traced together, so there may be more batches. If the epoch
    has fewer batches, waiting and warm-up are shorter. After the three batches nothing is recorded any more.
    """

    def __init__(
        self, device: torch.device, steps: int, batches: int, write: Callable[[Callable[[str], None]], None]
    ) -> None:
        """Plan the trace of an epoch that has `steps` optimizer steps left, each of `batches` batches.

        After the traced batches, `write` is called with a function that writes the trace to a path. The path must end
        in `.json.gz`.
        """
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it reports its own stages between the run's lines
        active = max(min(steps, -(-_ACTIVE // batches)), 1)
        warm_up = min(max(steps - active, 0), -(-_WARM_UP // batches))
        wait = min(max(steps - active - warm_up, 0), -(-_WAIT // batches))
        with warnings.catch_warnings():  # if there are too few steps to warm up
            warnings.simplefilter("ignore")
            # skip_first: everything before the first step
            when = schedule(skip_first=1, wait=wait, warmup=warm_up, active=active, repeat=1)
        self._profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])],
            schedule=when,
            on_trace_ready=lambda profiler: write(profiler.export_chrome_trace),
        )

    def phase(self, name: str) -> AbstractContextManager[object]:
        """Return a context manager that marks the phase `name` of a step in the trace.

        The phase "data", the wait for the loader, also begins the next step of the trace.
        """
        if name == DATA:
            self._profiler.step()
        return record_function(name)

    def __enter__(self) -> Trace:
        self._profiler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profiler.stop()
