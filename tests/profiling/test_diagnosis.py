"""The bottleneck, and what is proposed, from figures alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fasttrain.config.schema import TrainConfig
from fasttrain.profiling.diagnosis import Conditions, diagnose
from fasttrain.profiling.measure import Measured, PhaseTime, StepTimes
from fasttrain.training.step import PHASES

CPU = Conditions(device="cpu", cores=4, loader="torchvision", workers=2, faster_loaders=("native",), stored_side=512)
CUDA = replace(CPU, device="cuda", loader="native", faster_loaders=("dali",), amp_pays=True, compiled=True)
NATIVE = replace(CPU, loader="native", workers=4, faster_loaders=())


def measured(loader=2000.0, step=600.0, together=None, copies=None, **milliseconds: float) -> Measured:
    """Steps of 64 photographs whose phases take `milliseconds`; forward and backward what is left of 100."""
    left = 100.0 - sum(milliseconds.values())
    spent = {**dict.fromkeys(PHASES, 0.0), "forward": left * 0.35, "backward": left * 0.65, **milliseconds}
    phases = {name: PhaseTime(spent[name] / 1e3, spent[name] / 1e3, spent[name] / 100) for name in PHASES}
    return Measured(
        together=StepTimes(30, phases, together or 640.0),
        step_alone=StepTimes(10, phases, step),
        loader_rate=loader,
        copy_rate=copies,
    )


@pytest.mark.parametrize(
    ("figures", "conditions", "bottleneck"),
    [
        (measured(data=41, loader=380, step=640), CPU, "data"),
        (measured(data=12, loader=560, step=640), CPU, "data"),
        (measured(data=12, loader=900, step=640), CPU, "model"),
        (measured(data=12, loader=900, step=640), replace(CPU, workers=0), "data"),
        (measured(data=41, loader=900, step=640), CPU, "data"),
        (measured(data=41, loader=380, step=640, copies=400), CUDA, "copy"),
        (measured(data=41, loader=380, step=640, copies=4000), CUDA, "data"),
        (measured(copy=30), CUDA, "copy"),
        (measured(augment=30, optimizer=26), CPU, "augment"),
        (measured(augment=20, optimizer=24), CPU, "model"),
        (measured(optimizer=30), CPU, "optimizer"),
        (measured(logging=30), CPU, "logging"),
        (measured(data=30, augment=50, loader=380, step=640), CPU, "data"),
        (measured(step=1000, together=700), CPU, "cores"),
        (measured(step=1000, together=700), CUDA, "model"),
        (measured(step=1000, together=800), CPU, "model"),
        (measured(step=1000, together=700, loader=9000), CPU, "model"),
        (measured(), CPU, "model"),
    ],
)
def test_the_bottleneck(figures, conditions, bottleneck):
    found = diagnose(figures, TrainConfig(), conditions)
    assert found.bottleneck == bottleneck
    assert found.sentence.endswith(".") and all(each in found.sentence for each in found.proposals)


def proposed(figures: Measured, conditions: Conditions, **settings) -> tuple[str, ...]:
    return diagnose(figures, TrainConfig(**settings), conditions).proposals


def test_waiting_for_data_names_the_loader_and_both_rates():
    found = diagnose(measured(data=41, loader=380, step=640), TrainConfig(), CPU)
    assert found.sentence == (
        "waiting for data takes 41% of the time: torchvision delivers 380 img/s, but the step could use 640; "
        "try --loader native, or --workers 4, or convert --max-size 256."
    )


def test_waiting_for_data_proposes_what_is_not_in_use():
    slow = measured(data=41, loader=380, step=640)
    assert proposed(slow, NATIVE) == ("convert --max-size 256", "convert --raw --max-size 256")
    assert proposed(slow, replace(NATIVE, stored_side=256)) == ("convert --raw --max-size 256",)
    assert proposed(slow, replace(NATIVE, stored_side=256), image_size=64)[0] == "convert --max-size 96"
    larger = replace(NATIVE, fits_memory=False, stored_side=256, raw=True)
    assert proposed(slow, larger) == ("--shuffle shards",)
    found = diagnose(slow, TrainConfig(shuffle="shards"), larger)
    assert not found.proposals and found.sentence.endswith("no setting is left to try: loading needs more cores.")


def test_the_model_proposes_what_is_not_in_use():
    assert proposed(measured(), replace(CPU, amp_pays=True), channels_last=False) == (
        "--amp",
        "--channels-last",
        "--freeze N",
    )
    assert proposed(measured(), CPU) == ("--freeze N", "--linear-probe", "--progressive 128:224"), "no bf16 here"
    assert proposed(measured(), CPU, image_size=96) == ("--freeze N", "--linear-probe", "--progressive 64:96")
    assert proposed(measured(), CUDA, amp=True, color_jitter=0.4, image_size=320) == (
        "--freeze N",
        "--progressive 192:320",
        "--image-size 224",
    )
    assert proposed(measured(), CUDA, pretrained=False, amp=True, progressive="128:224") == ("--image-size 160",)
    assert "--compile on" in proposed(measured(), replace(CUDA, compiled=False))
    assert "--compile on" not in proposed(measured(), CPU)
    assert "--no-deterministic" in proposed(measured(), replace(CUDA, compiled=False), deterministic=True)
    assert proposed(measured(), CPU, grad_checkpointing=True)[0].startswith("--no-grad-checkpointing")
    settings = {"pretrained": False, "image_size": 32}
    assert diagnose(measured(), TrainConfig(**settings), CPU).sentence.endswith(
        "the step needs a faster device or a smaller --model."
    )


def test_the_other_phases_propose_their_own_settings():
    assert proposed(measured(augment=60), CPU, rand_augment="n2-m9", color_jitter=0.4, mixup=0.2) == (
        "--rand-augment n1-m9",
        "--color-jitter 0",
        "--mixup 0",
    )
    assert proposed(measured(augment=60), CPU, trivial_augment=True) == ("--no-trivial-augment",)
    assert proposed(measured(augment=60), CPU, rand_augment="n1-m9") == ("leaving --rand-augment out",)
    slow = diagnose(measured(optimizer=60), TrainConfig(ema_decay=0.99, clip_grad=1.0), CPU)
    assert slow.sentence.startswith("the optimizer with EMA and clipping takes 60% of the time, 60.0 ms per step")
    assert slow.proposals == ("leaving --ema-decay out", "leaving --clip-grad out", "--batch-size 128")
    assert proposed(measured(optimizer=60), replace(CPU, fused=False))[0].startswith("--optimizer adamw")
    assert proposed(measured(logging=60), CPU, batch_size=8) == ("--batch-size 16",)
    assert proposed(measured(copy=60), CUDA)[0] == "--loader dali"
    assert proposed(measured(step=1000, together=700), NATIVE)[0] == "convert --max-size 256"
