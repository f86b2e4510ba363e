"""The device: which one `auto` takes, its number, and how a tensor gets there."""

from __future__ import annotations

import pytest
import torch

from fasttrain.device import choose_device, copy_to
from fasttrain.errors import UserError
from fasttrain.ranks import Ranks


def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda:0"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda:0")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(chosen)


def test_cuda_always_has_a_number_by_default_the_current_devices(monkeypatch):
    two_gpus(monkeypatch)
    assert [choose_device(name).index for name in ("auto", "cuda", "cuda:0", "cuda:1")] == [0, 0, 0, 1]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert [choose_device(name).index for name in ("auto", "cuda", "cuda:0", "cuda:1")] == [1, 1, 0, 1]


def test_a_runs_device_becomes_the_current_one(monkeypatch):
    two_gpus(monkeypatch)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cuda:1", "auto", "cpu"):
        Ranks().device(name)
    assert current == [torch.device("cuda:1"), torch.device("cuda:0")]
    with pytest.raises(UserError, match="device = 'cuda:1': each of the 2 ranks needs a GPU of its own"):
        Ranks(1, 2, 1, 2).device("cuda:1")


@pytest.mark.parametrize(("device", "goes_on"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_only_a_copy_to_cuda_lets_the_host_go_on(monkeypatch, device, goes_on):
    asked, locked = {}, []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, where, **how: asked.update(how) or tensor)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: locked.append(tensor) or tensor)
    copy_to(torch.device(device), torch.zeros(1))
    assert asked == {"non_blocking": goes_on}
    assert len(locked) == int(goes_on), "a copy from pageable memory makes the host wait"
