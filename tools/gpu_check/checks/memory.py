"""Check 3: `--batch-size auto`, and what a run says when the GPU's memory runs out."""

from __future__ import annotations

import gc
import re

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_HELD = 0.85
"""The share of the GPU's memory that is filled beforehand, so that `--batch-size auto` reaches its end."""

_LEFT = 3 << 30
"""The memory limit, in bytes, of the run that has to run out of memory."""


@check(3, "--batch-size auto, and the advice after out of memory", limit=60)
def batch_size(setting: Setting, findings: Findings) -> None:
    """Let `auto` find the end of the memory, and follow the advice of a run that is out of memory."""
    for device in ("cuda", "cuda:0") if setting.cuda else ("cpu",):
        with findings.part(f"auto on {device}"):
            _auto(setting, findings, device)
    with findings.part("advice"):
        if not setting.cuda:
            raise Skipped("needs CUDA")
        _advice(setting, findings)


def _auto(setting: Setting, findings: Findings, device: str) -> None:
    import torch

    from tools.gpu_check.driving import made_parts, take_steps

    held = None
    if setting.cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        held = torch.empty(int(_HELD * total), dtype=torch.uint8, device="cuda:0")
    with made_parts(setting, data=setting.many, device=device, batch_size="auto") as parts:
        findings.figure(f"auto on {device}", parts.batch_size)
        print([line for line in parts.notes if "batch" in line])
        take_steps(parts, 3)
    del held
    if setting.cuda:
        torch.cuda.empty_cache()


def _advice(setting: Setting, findings: Findings) -> None:
    import torch

    from fasttrain import train
    from fasttrain.errors import UserError
    from tools.gpu_check.driving import made_parts, settings_of, take_steps

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(_LEFT / total, 0)
    try:
        said = ""
        try:
            train(**settings_of(setting, data=setting.many, batch_size=1024, epochs=1))
        except UserError as error:
            said = str(error)
        findings.figure("advice", said.replace(str(setting.folder), ""))
        found = re.search(r"(\d+) fits", said)
        assert found, f"the message has no batch size that fits: {said!r}"
        gc.collect()
        torch.cuda.empty_cache()
        with made_parts(setting, data=setting.many, batch_size=int(found[1])) as parts:
            take_steps(parts, 3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
