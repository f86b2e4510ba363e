"""Count what a training step asks of a GPU, without one: operations, and waits of the host for the device.

The counts are those of `tests.support.fake_cuda`. Forward and backward pass of mobilenetv2_100 alone are 311: 52
convolutions, 52 BatchNorms, 35 activations and 10 sums, each once in both directions, and 13 for pooling, classifier
and loss. So 300 can't be reached without compiling; docs/how-to/speed.md says what is left beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_cuda import Launches, counted_steps
from tests.support.old_torch import OLD_TORCH

pytestmark = pytest.mark.skipif(OLD_TORCH, reason="fake tensors of torch 2.6 have no CUDA without a driver")

PLAIN = {"model": "mobilenetv2_100", "optimizer": "sgd", "ema_decay": 0.999}
AUGMENTED = {"rand_augment": "n2-m9", "color_jitter": 0.4, "random_erasing": 0.25, "mixup": 0.2, "cutmix": 1.0}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "fp32": (340, {}),
    "efficientnet_b0": (565, {"model": "efficientnet_b0"}),
    "bf16": (450, {"amp": True, "amp_dtype": "bf16"}),
    "fp16 with clipping": (475, {"amp": True, "amp_dtype": "fp16", "clip_grad": 1.0}),
    "AdamW with clipping": (350, {"clip_grad": 1.0, "optimizer": "adamw"}),
    "all augmentations": (600, AUGMENTED),
    "frozen blocks": (315, {"freeze": 3}),
    "accumulation": (825, {"grad_accumulation": 2}),
    "the head alone": (205, {"head_epochs": 1, "color_jitter": 0.1, "ema_decay": None}),
}
"""The most operations that a step may take, and its settings."""


@pytest.fixture(scope="module")
def steps(shard_folder: Path) -> dict[str, Launches]:
    """Return what a step of each case launches."""
    settings = {**{case: settings for case, (_, settings) in CASES.items()}, "lamb": {"optimizer": "lamb"}}
    counted = counted_steps(shard_folder, [{**PLAIN, **each} for each in settings.values()])
    return dict(zip(settings, counted, strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_a_step_launches_few_operations_and_the_host_never_waits(steps, case):
    most, _ = CASES[case]
    assert not steps[case].synchronizations
    assert steps[case].operations.total() <= most


@pytest.mark.slow
def test_no_activation_is_copied(steps):
    assert steps["fp32"].operations["hardtanh"] == 35
    assert not steps["fp32"].operations["clone"]


@pytest.mark.slow
def test_what_makes_the_host_wait_is_seen(steps):
    """An optimizer that isn't fused can't read the flag that keeps the weights, so the host does."""
    assert steps["lamb"].synchronizations == {"_local_scalar_dense": 1}
