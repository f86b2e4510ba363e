"""Check 7: torch.compile gives the losses of eager mode, with few graphs, and CUDA graphs overwrite no used tensors."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_SMALL_MODEL = "test_efficientnet"
"""A model that compiles in a few seconds."""


@check(7, "compile: losses and graphs, progressive sizes, TTA under CUDA graphs", limit=150)
def compiling(setting: Setting, findings: Findings) -> None:
    """Compare the losses of compiled training with those of eager training, and count the graphs."""
    with _backend(setting):
        with findings.part("losses"):
            _losses(setting, findings, "default", "mobilenetv2_100" if setting.cuda else _SMALL_MODEL)
        with findings.part("reduce-overhead"):
            if not setting.cuda:
                raise Skipped("needs CUDA")
            _losses(setting, findings, "reduce-overhead", _SMALL_MODEL)
        with findings.part("flip averaging"):
            _flip_averaged(setting, findings)
        with findings.part("progressive sizes"):
            _progressive(setting, findings)


@contextmanager
def _backend(setting: Setting) -> Iterator[None]:
    """On a CPU, let torch.compile only find graphs in this context and run them uncompiled: Inductor takes minutes."""
    if setting.cuda:
        yield
        return
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise Skipped("needs a C++ compiler on a CPU")
    import torch

    found_only = functools.partial(torch.compile, backend="eager")
    with mock.patch("torch.compile", lambda model, mode=None, **options: found_only(model, **options)):
        yield


def _graphs_anew() -> Any:
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    return counters


def _losses(setting: Setting, findings: Findings, mode: str, model: str) -> None:
    from tools.gpu_check.driving import made_parts, take_steps

    changes = {"model": model, "learning_rate": 1e-4, "image_size": 128 if setting.cuda else 64}
    with made_parts(setting, **changes) as parts:
        count = len(parts.loaders.train) + 3  # an epoch's short last batch, and some of the next epoch's
        eager = take_steps(parts, count)
    counters = _graphs_anew()
    with made_parts(setting, **changes, compile="on", compile_mode=mode) as parts:
        assert parts.compiled, "the model is not compiled"
        compiled = take_steps(parts, count)
    graphs = counters["stats"]["unique_graphs"]
    off = [abs(one - other) / max(abs(other), 1e-6) for one, other in zip(compiled, eager, strict=True)]
    findings.figure(f"{mode}: greatest relative difference of a loss", max(off))
    findings.goal(f"{mode}: graphs of training with a short batch", graphs, at_most=1)
    assert graphs, "nothing was compiled"
    assert off[0] < 0.01 and max(off) < 0.1, f"compiled {compiled}, eager {eager}"


def _flip_averaged(setting: Setting, findings: Findings) -> None:
    import torch

    from fasttrain.model.tta import FlipAveraged
    from tools.gpu_check.driving import made_parts, take_steps

    _graphs_anew()
    side = 128 if setting.cuda else 64
    changes = {"model": _SMALL_MODEL, "image_size": side, "compile": "on", "compile_mode": "reduce-overhead"}
    with made_parts(setting, **changes) as parts:
        take_steps(parts, 4)
        plain = copy.deepcopy(parts.model).eval()  # copies are not compiled
        parts.model.eval()
        worst = 0.0
        with torch.no_grad():
            for seed in range(4):  # a CUDA graph is recorded in the second run and replayed from the third
                generator = torch.Generator().manual_seed(seed)
                pictures = torch.randn((parts.batch_size, 3, side, side), generator=generator).to(parts.device)
                pictures = pictures.to(memory_format=torch.channels_last)
                found = FlipAveraged(parts.model)(pictures).clone()
                one, other = plain(pictures), plain(pictures.flip(3))
                worst = max(worst, float((found - (one + other) / 2).abs().max() / one.abs().max()))
    findings.figure("flip averaging: greatest relative difference", worst)
    assert worst < 0.02, f"flip averaging differs from the mean by {worst:.3g} of the greatest logit"


def _progressive(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.driving import records

    counters = _graphs_anew()
    sizes = (96, 128) if setting.cuda else (32, 64)
    changes = {"model": _SMALL_MODEL, "image_size": sizes[1], "progressive": f"{sizes[0]}:{sizes[1]}"}
    found = records(setting, 2, **changes, compile="on")
    used = {record["image_size"] for record in found}
    findings.figure("progressive sizes", ", ".join(map(str, sorted(used))))
    findings.goal("graphs of two sizes and validation", counters["stats"]["unique_graphs"], at_most=3)
    assert used == set(sizes), f"the sizes were {used}, not {sizes}"
