"""Checks 4 and 5: the time of a training step, and how much the loader slows it down."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_MODELS = ("mobilenetv2_100", "efficientnet_b0")
_BATCHES = (256, 64, 512)
"""The batch sizes to measure, the most important first."""

_COMPILED = {"compile": "default", "reduce-overhead": "reduce-overhead"}
_EAGER_S, _COMPILES_S = 12, 50
"""The seconds that must be left to begin an eager case or a compiled one."""


@check(4, "speed of the step: models, batches, eager and compiled, beside a plain timm loop", limit=115)
def speed(setting: Setting, findings: Findings) -> None:
    """Measure steps on a batch in the GPU's memory: the most important cases first, and as many as the time allows."""
    if not setting.cuda:
        with findings.part("eager"):
            _against_plain(setting, findings, "test_efficientnet", 8)
        findings.skip("compiled", "needs CUDA")
        return
    for batch in _BATCHES:
        for model in _MODELS:
            with findings.part(f"{model}, {batch}, eager"):
                if setting.left() < _EAGER_S:
                    raise Skipped("no time left")
                _against_plain(setting, findings, model, batch)
        for model in _MODELS:
            for mode in _COMPILED:
                with findings.part(f"{model}, {batch}, {mode}"):
                    if setting.left() < _COMPILES_S:
                        raise Skipped("no time left")
                    _case(setting, findings, model, batch, mode)


def _against_plain(setting: Setting, findings: Findings, model: str, batch: int) -> None:
    ratio = _case(setting, findings, model, batch, "eager") / _plain_case(setting, findings, model, batch)
    least = 0.95 if setting.cuda else 0.0
    findings.goal(f"{model}, {batch}: fasttrain / plain loop", ratio, at_least=least)


def _case(setting: Setting, findings: Findings, model: str, batch: int, mode: str) -> float:
    import torch._dynamo

    from tools.gpu_check.driving import HeldStep, made_parts

    compiled = {"compile": "on", "compile_mode": _COMPILED[mode]} if mode in _COMPILED else {"compile": "off"}
    torch._dynamo.reset()  # each case has graphs of its own
    changes = {"data": setting.many, "model": model, "batch_size": batch, "amp": setting.cuda}
    with made_parts(setting, **changes, **compiled) as parts:
        step = HeldStep(parts)
        with _memory_may_end():
            figures = measure_step(step, step.look, batch, setting)
    findings.figure(f"{model}, {batch}, {mode}", figures)
    return float(figures["img/s"])


def _plain_case(setting: Setting, findings: Findings, model: str, batch: int) -> float:
    side = 224 if setting.cuda else 48
    with _memory_may_end():
        figures = measure_step(plain_step(model, batch, side, setting.device), lambda: None, batch, setting)
    findings.figure(f"{model}, {batch}, plain loop", figures)
    return float(figures["img/s"])


@contextlib.contextmanager
def _memory_may_end() -> Iterator[None]:
    """Raise Skipped if the case in this context is out of memory."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise Skipped("out of memory") from None


def plain_step(model_name: str, batch: int, side: int, device: str) -> Callable[[], None]:
    """Return the training step of a plain loop around a timm model, for comparison.

    It has fused AdamW, bf16 on CUDA, channels-last memory and a constant batch of `batch` images of `side` px.
    """
    import timm
    import torch

    model = timm.create_model(model_name, num_classes=10).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=device)
    labels = torch.arange(batch, device=device) % 10
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).mul_(255).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).mul_(255).view(1, 3, 1, 1)
    kind = torch.device(device).type

    def step() -> None:
        inputs = images.permute(0, 3, 1, 2).float().sub_(mean).div_(std)
        with torch.autocast(kind, torch.bfloat16) if kind == "cuda" else contextlib.nullcontext():
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure_step(step: Callable[[], Any], look: Callable[[], Any], batch: int, setting: Setting) -> dict[str, float]:
    """Return figures of `step`, by name: images per second, milliseconds per step and, on CUDA, those of the GPU.

    The GPU's figures are kernels, launches, busy milliseconds and the share of time in which it idles. `look`: waits
    for the device as a run does now and then, so that the measured steps needn't. `batch`: images per step.
    """
    import torch

    from tools.gpu_check.trace import trace

    def catch_up() -> None:
        if setting.cuda:
            torch.cuda.synchronize()

    repeats, traced_steps = (30, 5) if setting.cuda else (2, 1)
    began = time.perf_counter()
    step()
    catch_up()
    first = time.perf_counter() - began
    for _ in range(5 if setting.cuda else 1):  # a CUDA graph is recorded in the second run and replayed from the third
        step()
    host = []
    for _ in range(10 if setting.cuda else 1):
        look()
        catch_up()
        began = time.perf_counter()
        step()
        host.append(time.perf_counter() - began)
    look()
    catch_up()
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    catch_up()
    wall = (time.perf_counter() - began) / repeats
    look()
    found = trace(lambda: [step() for _ in range(traced_steps)], Path(setting.folder, "trace.json"))
    figures = {"img/s": round(batch / wall), "ms": wall * 1e3, "host ms": statistics.median(host) * 1e3}
    if setting.cuda:
        figures |= found.per(traced_steps)
        figures["idle"] = max(1 - figures["GPU ms"] / figures["ms"], 0.0)
    return {name: round(value, 2) for name, value in figures.items()} | {"first step s": round(first, 2)}


@check(5, "end to end with the native loader: together / the step alone; data wait against events", limit=75)
def end_to_end(setting: Setting, findings: Findings) -> None:
    """Measure a run as `fasttrain profile` does, with 4, 8 and 16 threads, and check the wait for data in a record."""
    from fasttrain import profile
    from tools.gpu_check.driving import records, settings_of

    shares = {}
    threads = (16, 8, 4) if setting.cuda else (1,)
    base = {"data": setting.many, "amp": setting.cuda, **({"batch_size": 256} if setting.cuda else {})}
    for count in threads:
        with findings.part(f"{count} threads"):
            steps = 24 if setting.cuda else 2
            measured = profile(steps=steps, **settings_of(setting, **base, workers=count)).measured
            together, alone = measured.together.rate, measured.step_alone.rate
            shares[count] = measured.together.phases["data"].share
            figures = {
                "together": round(together),
                "step alone": round(alone),
                "loader alone": round(measured.loader_rate),
                "copies alone": round(measured.copy_rate or 0),
                "data wait by events": round(shares[count], 3),
            }
            findings.figure(f"{count} threads, img/s", figures)
            if count == threads[0] and setting.cuda:
                findings.goal("together / the step alone", together / alone, at_least=0.98)
            else:
                findings.figure(f"together / the step alone, {count} threads", together / alone)
    with findings.part("data wait"):
        limit = 40 if setting.cuda else 2
        (record,) = records(setting, 1, **base, workers=threads[0], limit_batches=limit)
        waited = record["wait_share"]
        findings.figure("data wait as the run says", waited)
        if setting.cuda:
            findings.goal("data wait: the run against events", abs(waited - shares[threads[0]]), at_most=0.05)
