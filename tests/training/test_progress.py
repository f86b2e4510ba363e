"""Progress: a bar where somebody looks, nothing in a log."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from fasttrain.device import memory_peak, release_memory
from fasttrain.training.progress import EpochProgress


def drawn(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with EpochProgress(console, "epoch 1/3", total=lambda: 100, done=40, learning_rate=lambda: 2.5e-4) as progress:
        progress.show(20, 1.25, 987.0, 0.03)
        progress._progress.refresh()
    return console.file.getvalue()


def test_a_terminal_sees_how_far_how_fast_and_how_well():
    shown = drawn(terminal=True)
    for part in ("epoch 1/3", "60/100", "loss 1.250", "lr 2.5e-04", "987 img/s", "waiting 3%"):
        assert part in shown, part


def test_the_goal_falls_if_time_runs_out():
    console, goal = Console(file=io.StringIO(), force_terminal=True, width=120), [100]
    with EpochProgress(console, "epoch 1/1", total=lambda: goal[0], done=0, learning_rate=lambda: 1.0) as progress:
        progress.show(10, 1.0, 5.0, 0.0)
        goal[0] = 50
        progress.show(20, 1.0, 5.0, 0.0)
        progress._progress.refresh()
    assert "20/50" in console.file.getvalue()


def test_a_log_gets_no_bar():
    assert drawn(terminal=False).strip() == ""


def test_memory_is_reported_and_released_on_cuda_only():
    cpu = torch.device("cpu")
    release_memory(cpu)
    assert memory_peak(cpu) is None
    if torch.cuda.is_available():
        torch.zeros(1 << 20, device="cuda")
        assert memory_peak(torch.device("cuda")) >= 1 << 22
