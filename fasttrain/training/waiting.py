"""Measure how long training waits for data: the GPU's idle time on CUDA, the host's elsewhere."""

from __future__ import annotations

import time
from collections import deque

import torch


class DataWait:
    """The total time spent waiting for data, between calls of `begin` and `end`.

    On CUDA the host runs ahead of the GPU, and a wait of the host costs nothing while the GPU is busy. So each wait is
    measured on the GPU: from one event to another on the current stream, between which the GPU is idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = self._began = 0.0
        self._begun: torch.cuda.Event | None = None
        self._unread: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def begin(self) -> None:
        """Mark that the host asks for data."""
        if self._device.type == "cuda":
            self._begun = self._event()
        self._began = time.perf_counter()

    def end(self) -> None:
        """Mark that the data has arrived."""
        if self._begun is not None:
            self._unread.append((self._begun, self._event()))
        else:
            self._seconds += time.perf_counter() - self._began

    def seconds(self) -> float:
        """Return the total so far, in seconds.

        This call does not wait for the GPU. On CUDA, the total has no waits that the GPU has not reached yet.
        """
        while self._unread and self._unread[0][1].query():
            begun, ended = self._unread.popleft()
            self._seconds += begun.elapsed_time(ended) / 1e3
        return self._seconds

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
