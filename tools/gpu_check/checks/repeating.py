"""Checks 8 and 9: the same numbers on another device, in a second run and after a resume; an infinite loss."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from tools.gpu_check.findings import Findings
from tools.gpu_check.registry import Setting, check

_MIXED = {"amp": True, "rand_augment": "n2-m9", "mixup": 0.2, "ema_decay": 0.99, "drop_rate": 0.2}
_INFINITE_AT = 7
"""The batch with an infinite loss, which lies between two looks of the run at the device."""


def _size(setting: Setting) -> dict[str, Any]:
    return {"image_size": 128, "batch_size": 32} if setting.cuda else {}


@check(8, "the same again: CPU against CUDA, --deterministic twice, resumed in mid-epoch", limit=80)
def repeating(setting: Setting, findings: Findings) -> None:
    """Compare losses between devices, and weights bit for bit between runs on one device."""
    for name, changes in {"plain": {}, "mixed": _MIXED}.items():
        with findings.part(f"--deterministic twice, {name}"):
            _twice(setting, findings, name, changes)
    with findings.part("resumed in mid-epoch"):
        _resumed(setting, findings)
    with findings.part("CPU against this device"):
        _devices(setting, findings)


def _twice(setting: Setting, findings: Findings, name: str, changes: dict[str, Any]) -> None:
    from tools.gpu_check.driving import made_parts, take_steps

    ends = []
    for _ in range(2):
        with made_parts(setting, **_size(setting), **changes, deterministic=True) as parts:
            losses = take_steps(parts, 12 if setting.cuda else 3)
            ends.append((losses, {key: each.cpu().clone() for key, each in parts.model.state_dict().items()}))
    differing = [key for key in ends[0][1] if not ends[0][1][key].equal(ends[1][1][key])]
    findings.figure(f"{name}: tensors that differ between two runs", len(differing))
    assert ends[0][0] == ends[1][0], f"the losses differ: {ends[0][0]} and {ends[1][0]}"
    assert not differing, f"{len(differing)} tensors differ, the first is {differing[0]}"


def _resumed(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.driving import only_run

    first, end = (4, 12) if setting.cuda else (2, 5)
    alone, resumed = setting.folder / "alone", setting.folder / "resumed"
    _train_until(setting, end, out=alone)
    _train_until(setting, first, out=resumed)
    _train_until(setting, end, out=resumed, resume=str(only_run(resumed)))
    one, other = _weights(only_run(alone)), _weights(only_run(resumed))
    differing = [name for name in one if not one[name].equal(other[name])]
    findings.figure("tensors that differ after a resume", len(differing))
    assert not differing, f"{len(differing)} of {len(one)} tensors differ, the first is {differing[0]}"


def _train_until(setting: Setting, step: int, **changes: Any) -> None:
    """Train for `step` steps. Then send SIGTERM to this process, which saves a checkpoint and stops the run."""
    from fasttrain import Callback, train
    from fasttrain.errors import Stopped
    from tools.gpu_check.driving import settings_of

    class StopAt(Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

    settings = settings_of(setting, **_size(setting), **_MIXED, deterministic=True, epochs=20, **changes)
    with contextlib.suppress(Stopped):
        train(**settings, callbacks=[StopAt()])
        raise AssertionError("the run was not stopped by SIGTERM")


def _weights(run: Path) -> dict[str, Any]:
    from fasttrain.checkpoint.folder import newest_checkpoint

    found = newest_checkpoint(run)
    assert found is not None and not found.torn, f"{run} has no intact checkpoint"
    return dict(found.state["model"])


def _devices(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.driving import made_parts, take_steps

    losses = {}
    for device in ("cpu", setting.device):
        changes = {**_size(setting), "device": device, "learning_rate": 1e-4, "deterministic": True}
        with made_parts(setting, **changes) as parts:
            losses[device] = take_steps(parts, 6 if setting.cuda else 2)
    pairs = list(zip(losses["cpu"], losses[setting.device], strict=True))
    off = [abs(one - other) / abs(one) for one, other in pairs]
    findings.figure("first loss: relative difference of CPU and this device", f"{off[0]:.1e}")
    findings.figure("greatest relative difference", f"{max(off):.1e}")
    assert off[0] < 1e-4 and max(off) < 0.02, f"losses (CPU, {setting.device}): {pairs}"


@check(9, "injected infinity: the run stops, weights stay, replay works", limit=45)
def diverging(setting: Setting, findings: Findings) -> None:
    """Make the loss of one batch infinite, in each precision, and check that the run stops and can be replayed."""
    variants: dict[str, dict[str, Any]] = {
        "fp32": {},
        "bf16, EMA": {"amp": True, "ema_decay": 0.99},
        "fp16, clipping": {"amp": True, "amp_dtype": "fp16", "clip_grad": 1.0},
        "timm's optimizer": {"optimizer": "nadamw"},
    }
    for name, changes in variants.items():
        with findings.part(name):
            _diverged(setting, findings, name, changes)


def _diverged(setting: Setting, findings: Findings, name: str, changes: dict[str, Any]) -> None:
    import torch

    from fasttrain import Callback, train
    from fasttrain.commands.replay import replay
    from fasttrain.errors import Diverged
    from fasttrain.training.diverged import DivergedStep, find_diverged
    from tools.gpu_check.driving import only_run, settings_of

    class Infinite(Callback):
        """Makes the logits of one batch infinite, and keeps the weights from before that batch."""

        def on_train_start(self, run: Any) -> None:
            self.model, self.batches = run.model, 0
            run.model.register_forward_hook(self.broken)

        def broken(self, module: Any, inputs: Any, output: Any) -> Any:
            self.batches += module.training and torch.is_grad_enabled()
            if module.training and self.batches == _INFINITE_AT:
                self.before = self.weights()
                return output * float("inf")
            return None

        def weights(self) -> dict[str, Any]:
            return {key: each.detach().cpu().clone() for key, each in self.model.named_parameters()}

    out = setting.folder / "runs"
    shutil.rmtree(out, ignore_errors=True)
    callback, said = Infinite(), ""
    try:
        train(**settings_of(setting, **_size(setting), **changes, epochs=20, out=out), callbacks=[callback])
    except Diverged as error:
        said = str(error)
    assert said, "the run did not stop"
    findings.figure(f"{name}: batches until it stopped", callback.batches)
    saved = DivergedStep.load(find_diverged(only_run(out)))
    now = callback.weights()
    moved = [key for key, each in now.items() if not each.equal(callback.before[key])]
    assert not moved, f"the broken step has changed {len(moved)} tensors, the first is {moved[0]}"
    wrong = [key for key, each in now.items() if not saved.weights[key].cpu().equal(each)]
    assert not wrong, f"diverged.safetensors holds other weights, the first is {wrong[0]}"
    again = replay(only_run(out), device=setting.device)
    # Without the hook the loss is finite, except perhaps in fp16, if the loss scale is still too great.
    assert again.tried[0].finite, f"replay says: {again.why}"
    findings.figure(f"{name}: replay", again.why)
