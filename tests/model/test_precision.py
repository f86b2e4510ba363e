"""Mixed precision: what is chosen, and when it is left out."""

from __future__ import annotations

import torch
from torch.torch_version import TorchVersion

from fasttrain.model.precision import amp_problem, choose_precision


def test_amp_is_bf16_or_fp16_with_a_scaler(monkeypatch):
    monkeypatch.setattr("fasttrain.model.precision._cpu_has_kernels", lambda dtype: True)
    cpu = torch.device("cpu")
    layer = torch.nn.Linear(2, 2)
    for amp, dtype, expected in (
        (False, "bf16", torch.float32),
        (True, "bf16", torch.bfloat16),
        (True, "fp16", torch.float16),
    ):
        precision = choose_precision(layer, cpu, amp, dtype)
        with precision.autocast():
            assert layer(torch.ones(1, 2)).dtype == expected
        assert precision.scaler.is_enabled() == (amp and dtype == "fp16")
        assert precision.name == (dtype if amp else "fp32") and precision.unavailable is None


def test_amp_is_left_out_where_it_would_be_slower(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("fasttrain.model.precision._cpu_has_kernels", lambda dtype: False)
    chosen = choose_precision(torch.nn.Linear(1, 1), cpu, True, "bf16")
    assert chosen.name == "fp32" and "training in fp32" in str(chosen.unavailable)
    assert "training in fp32" in amp_problem(cpu, "bf16")
    assert amp_problem(torch.device("cuda"), "bf16") is None
    monkeypatch.setattr("fasttrain.model.precision._cpu_has_kernels", lambda dtype: True)
    assert amp_problem(cpu, "bf16") is None


def test_on_mps_amp_is_left_out_where_macos_or_torch_is_too_old(monkeypatch):
    mps = torch.device("mps")
    monkeypatch.setattr("torch.backends.mps.is_macos_or_newer", lambda major, minor: (major, minor) <= (13, 3))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.7.1"))
    assert "macOS 14" in amp_problem(mps, "bf16") and "needs torch 2.8" in amp_problem(mps, "fp16")
    monkeypatch.setattr("torch.backends.mps.is_macos_or_newer", lambda major, minor: (major, minor) <= (14, 0))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    assert amp_problem(mps, "bf16") is None and amp_problem(mps, "fp16") is None


def test_a_gpu_that_only_emulates_bf16_trains_in_fp16_and_says_so(monkeypatch):
    device, layer = torch.device("cuda", 0), torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    for capability, name, said in (
        ((7, 5), "fp16", "Tesla T4 only emulates bf16: training in fp16"),
        ((8, 0), "bf16", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        for dtype, chosen in (("bf16", name), ("fp16", "fp16")):
            precision = choose_precision(layer, device, True, dtype)
            assert precision.name == chosen
            assert precision.unavailable == (said if dtype == "bf16" else None)
        assert choose_precision(layer, device, False, "bf16").name == "fp32"
