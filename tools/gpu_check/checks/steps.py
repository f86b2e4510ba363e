"""Check 2: in 30 steps, in each precision and with each extra, the host never waits for the GPU."""

from __future__ import annotations

import math
from typing import Any

from tools.gpu_check.findings import Findings
from tools.gpu_check.registry import Setting, check

_STEPS, _WARM_UP = 30, 3
_AUGMENTED = {
    "rand_augment": "n2-m9",
    "color_jitter": 0.4,
    "random_erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "vflip": 0.5,
    "label_smoothing": 0.1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"amp": True},
    "fp16, clipping": {"amp": True, "amp_dtype": "fp16", "clip_grad": 1.0},
    "bf16, EMA": {"amp": True, "ema_decay": 0.999},
    "all augmentations": {"amp": True, **_AUGMENTED},
    "TrivialAugment": {"amp": True, "trivial_augment": True},
    "SGD, accumulation": {"optimizer": "sgd", "learning_rate": 0.05, "grad_accumulation": 2},
    "freeze": {"amp": True, "freeze": 3},
    "class weights, focal": {"class_weights": "balanced", "loss": "focal"},
}


@check(2, "30 steps of each kind without a wait for the GPU", limit=90)
def steps(setting: Setting, findings: Findings) -> None:
    """Train each variant for some steps. Count the waits by torch's debug mode, and slow copies by a trace.

    Slow copies are those from pageable memory, for which the host waits.
    """
    for name, changes in VARIANTS.items():
        with findings.part(name):
            _variant(setting, findings, name, changes)
    with findings.part("linear probe"):
        _linear_probe(setting, findings)


_TRACED = ("fp32", "bf16, EMA", "all augmentations")


def _variant(setting: Setting, findings: Findings, name: str, changes: dict[str, Any]) -> None:
    from tools.gpu_check.driving import made_parts, take_steps
    from tools.gpu_check.syncs import Syncs
    from tools.gpu_check.trace import trace

    count = _STEPS if setting.cuda else 3
    with made_parts(setting, **changes) as parts:
        before = {key: each.detach().clone() for key, each in parts.model.named_parameters()}
        take_steps(parts, _WARM_UP if setting.cuda else 1)
        watch = Syncs(setting.cuda)
        losses = take_steps(parts, count, around=watch.watched)
        assert all(map(math.isfinite, losses)), f"losses {losses}"
        moved = [key for key, each in parts.model.named_parameters() if not each.detach().equal(before[key])]
        still = sum(not each.requires_grad for each in parts.model.parameters())
        assert len(moved) >= (len(before) - still) // 2, f"only {len(moved)} of {len(before)} tensors have changed"
        if setting.cuda:
            findings.figure(f"{name}: waits, planned looks", f"{sum(watch.places.values())}, {watch.planned}")
            assert not watch.places, f"the host waited at {watch.said}"
            if name in _TRACED:
                traced = trace(lambda: take_steps(parts, 3), setting.folder / "trace.json")
                findings.figure(f"{name}: kernels a step", round(traced.kernels / 3))
                assert not traced.pageable, f"{traced.pageable} copies in 3 steps from memory that isn't page-locked"
        else:
            findings.figure(f"{name}: last loss", losses[-1])


def _linear_probe(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.driving import made_parts
    from tools.gpu_check.syncs import Syncs

    watch, batches = Syncs(setting.cuda), [0]

    def watched(delivered: Any) -> Any:
        for number, batch in enumerate(delivered):
            if number == 0:  # the head is tried on this batch
                yield batch
                continue
            batches[0] += 1
            with watch.watched():  # while the batch is processed
                yield batch

    with made_parts(setting, linear_probe=True, amp=True, epochs=3, batch_size=16) as parts:
        parts.enter_features(watched, print)
        features = next(iter(parts.state.loader))[0]
        assert features.ndim == 2 and bool(features.isfinite().all()), f"features of shape {tuple(features.shape)}"
    if setting.cuda:
        waits = sum(watch.places.values())
        findings.figure("linear probe: waits a batch", waits / batches[0])
        assert waits < batches[0] / 2, f"the host waited at {watch.said}"
