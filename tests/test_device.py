"""The device: which one `auto` takes, and how a tensor gets there."""

from __future__ import annotations

import pytest
import torch

from fasttrain.device import choose_device, copy_to


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(chosen)


@pytest.mark.parametrize(("device", "goes_on"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_only_a_copy_to_cuda_lets_the_host_go_on(monkeypatch, device, goes_on):
    asked, locked = {}, []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, where, **how: asked.update(how) or tensor)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: locked.append(tensor) or tensor)
    copy_to(torch.device(device), torch.zeros(1))
    assert asked == {"non_blocking": goes_on}
    assert len(locked) == int(goes_on), "a copy from pageable memory makes the host wait"
