"""`data wait`: the host's time on a CPU, and on CUDA the time in which the GPU has nothing to do."""

from __future__ import annotations

import time

import pytest
import torch

from fasttrain.training.waiting import DataWait


class Gpu:
    """A GPU on paper: a queue of work behind a host that runs ahead, and events in that queue."""

    def __init__(self) -> None:
        self.host = self.free = 0.0

    def launch(self, seconds: float) -> None:
        self.free = max(self.host, self.free) + seconds

    def event(self, enable_timing: bool = False) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self.reached = gpu, 0.0

    def record(self, stream: object) -> None:
        self.reached = max(self._gpu.host, self._gpu.free)

    def query(self) -> bool:
        return self.reached <= self._gpu.host

    def elapsed_time(self, other: Event) -> float:
        assert other.query(), "torch raises where the GPU has not come so far"
        return 1e3 * (other.reached - self.reached)


@pytest.mark.parametrize(
    ("loading", "computing", "idle"),
    [(0.06, 0.10, 0.06), (0.15, 0.05, 0.15 + 9 * 0.10)],
    ids=["the GPU is the slower one", "the loader is the slower one"],
)
def test_on_cuda_it_is_the_time_in_which_the_gpu_is_idle(monkeypatch, loading, computing, idle):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    wait = DataWait(torch.device("cuda", 0))
    for _ in range(10):
        wait.begin()
        gpu.host += loading
        wait.end()
        gpu.launch(computing)
        assert wait.seconds() <= idle + 1e-9, "only what the GPU has come past is read"
    gpu.host = gpu.free  # the look at the epoch's end
    assert wait.seconds() == pytest.approx(idle)


def test_on_a_cpu_it_is_the_hosts_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    wait = DataWait(torch.device("cpu"))
    for seconds in (1.0, 0.5):
        now[0] += 3.0
        wait.begin()
        now[0] += seconds
        wait.end()
    assert wait.seconds() == 1.5
