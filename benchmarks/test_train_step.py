"""The training step by itself, on a batch held in memory: precision, memory format, compile, freezing, linear probe.

Variants of one model take turns step by step, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from fasttrain.device import choose_device, fast_math
from fasttrain.model.factory import create_model
from fasttrain.model.fold import fold_frozen
from fasttrain.model.freeze import freeze_blocks, keep_frozen
from fasttrain.model.precision import amp_problem, make_precision
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.training.optim import create_optimizer

BATCH, SIDE, CLASSES, ROUNDS = 16, 224, 101, 5
VARIANTS = {
    "fp32, contiguous": {},
    "fp32, channels-last": {"channels_last": True},
    "fp32, channels-last, compiled": {"channels_last": True, "compiled": True},
    "bf16, channels-last": {"channels_last": True, "amp": "bf16"},
    "bf16, channels-last, no depthwise in fp32": {"channels_last": True, "amp": "bf16", "plain": True},
    "bf16, channels-last, compiled": {"channels_last": True, "amp": "bf16", "compiled": True},
    "fp16, channels-last": {"channels_last": True, "amp": "fp16"},
}


@pytest.fixture(autouse=True)
def _long(short):
    if short:
        pytest.skip("not in the short form")


def make_step(
    name: str,
    *,
    channels_last: bool = False,
    amp: str | None = None,
    compiled: bool = False,
    freeze: int = 0,
    plain: bool = False,
) -> Callable[[], None]:
    """One step of the model `name`, as `train` takes it; `plain`: with no convolution kept in fp32."""
    device = choose_device("auto")
    fast_math(deterministic=False)
    torch.manual_seed(0)
    model = create_model(name, CLASSES).to(device).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    frozen = freeze_blocks(model, freeze)
    keep_frozen(frozen)
    fold_frozen(model, frozen)
    preprocess = NormalizePixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels_last=channels_last).to(device)
    optimizer = create_optimizer(model, "sgd", 0.01, 1e-4, 0.9)
    images = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, CLASSES, (BATCH,), device=device)
    precision = make_precision(amp or "fp32", torch.nn.Identity() if plain else model, device)
    autocast, scaler = precision.autocast, precision.scaler
    if compiled:
        model.compile()

    def step() -> None:
        with autocast():
            loss = torch.nn.functional.cross_entropy(model(preprocess(images)), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def rates(steps: dict[str, Callable[[], None]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median img/s of each, taking turns, after two steps each that are not counted."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            found[name].append(BATCH / (time.perf_counter() - began))
    return {name: statistics.median(each) for name, each in found.items()}


@pytest.mark.parametrize("model", ["mobilenetv2_100", "efficientnet_b0"])
def test_step(model, results):
    wanted = dict(VARIANTS)
    if not torch.cuda.is_available():
        wanted.pop("fp16, channels-last")
    else:
        wanted.pop("bf16, channels-last, no depthwise in fp32")  # the same there
    if amp_problem(choose_device("auto"), "bf16"):  # a step then takes seconds: it is shown, not compiled too
        wanted.pop("bf16, channels-last, compiled")
    found = rates({name: make_step(model, **variant) for name, variant in wanted.items()})
    first = found["fp32, contiguous"]
    results.add(f"step_{model}", found)
    rows = [[name, f"{rate:.1f}", f"{rate / first:.2f}"] for name, rate in found.items()]
    results.add_table(f"step_{model}", [f"{model}, a step of {BATCH}", "img/s", "against fp32, contiguous"], rows)


@pytest.mark.parametrize(("model", "blocks"), [("mobilenetv2_100", 17), ("efficientnet_b0", 16)])
def test_freeze(model, blocks, results):
    """All but the last stage and the head frozen, against the whole model."""
    whole = make_step(model, channels_last=True)
    found = rates({"whole": whole, "frozen": make_step(model, channels_last=True, freeze=blocks)})
    results.add(f"freeze_{model}", {**found, "ratio": found["frozen"] / found["whole"]})
    rows = [[name, f"{rate:.1f}", f"{rate / found['whole']:.2f}"] for name, rate in found.items()]
    results.add_table(f"freeze_{model}", [f"{model}, --freeze {blocks}", "img/s", "against whole"], rows)


def test_linear_probe(photographs, tmp_path, results):
    """Epochs after the first, whose features are in memory, against full steps on as many photographs."""
    from fasttrain import train
    from fasttrain.shards.convert import convert

    convert(str(photographs), tmp_path / "shards", progress=False)
    settings = {"pretrained": False, "batch_size": BATCH, "loader": "auto", "track": False}
    began = time.perf_counter()
    run = train(data=tmp_path / "shards", out=tmp_path, linear_probe=True, epochs=6, early_stopping=0, **settings)
    whole = time.perf_counter() - began
    probe = statistics.median(record["img/s"] for record in run.history[1:])
    images = run.history[-1]["img/s"] * run.history[-1]["epoch_seconds"]
    full = rates({"full": make_step("mobilenetv2_100", channels_last=True)})["full"]
    part = {
        "full img/s": full,
        "probe img/s": probe,
        "ratio": probe / full,
        "epoch_seconds": images / probe,
        "run_seconds": whole,
    }
    results.add("linear_probe", part)
    rows = [["full step", f"{full:,.1f}", f"{images / full:.2f}", "1"]]
    rows.append(["linear probe, after the features", f"{probe:,.0f}", f"{images / probe:.3f}", f"{probe / full:,.0f}"])
    results.add_table("linear_probe", ["mobilenetv2_100", "img/s", "seconds an epoch's steps", "ratio"], rows)
    print(f"the whole probe of {images:.0f} photographs, with its features and its report: {whole:.1f} s")
