"""Check 12: frozen BatchNorm is folded, `profile --json` prints figures, `train --profile` writes a trace."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import Any

from tools.gpu_check.findings import Findings
from tools.gpu_check.registry import Setting, check


@check(12, "frozen BatchNorm folded; profile --json; train --profile", limit=75)
def profiling(setting: Setting, findings: Findings) -> None:
    """Count the folded BatchNorm layers, and read the trace and the figures that both commands write."""
    with findings.part("fold_frozen"):
        _folded(setting, findings)
    with findings.part("train --profile"):
        _trace(setting, findings)
    with findings.part("profile --json"):
        _json(setting, findings)


def _folded(setting: Setting, findings: Findings) -> None:
    import torch

    from tools.gpu_check.driving import made_parts, take_steps

    counts = {}
    for device in dict.fromkeys(("cpu", setting.device)):
        with made_parts(setting, freeze=4, device=device, batch_size=16) as parts:
            convs = [each for each in parts.model.modules() if isinstance(each, torch.nn.Conv2d)]
            counts[device] = sum("forward" in vars(each) for each in convs)
            take_steps(parts, 2)
    findings.figure("BatchNorms folded", counts[setting.device])
    assert counts[setting.device] == counts["cpu"] > 0, f"folded: {counts}"


def _trace(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.driving import only_run, records
    from tools.gpu_check.trace import read_trace

    out = setting.folder / "profiled"
    records(setting, 1, out=out, profile=True, batch_size=16, limit_batches=12 if setting.cuda else 3)
    with gzip.open(only_run(out) / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {each.get("name") for each in events}
    missing = {"data", "forward", "backward", "optimizer"} - names
    assert not missing, f"the trace has no phase {missing}"
    findings.figure("events in train --profile's trace", len(events))
    if setting.cuda:
        kernels = read_trace(events).kernels
        findings.figure("kernels in train --profile's trace", kernels)
        assert kernels, "the trace has no kernel"


def _json(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.driving import settings_of

    settings = settings_of(setting, data=setting.many)
    command = [sys.executable, "-m", "fasttrain", "profile", "--json", "--steps", "20" if setting.cuda else "2"]
    command += ["--picture", str(setting.folder / "profile.png"), *options_of(settings)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=max(setting.left() - 2, 1))
    assert found.returncode == 0, f"exit code {found.returncode}: {found.stderr[-2000:]}"
    figures = json.loads(found.stdout)
    findings.figure("profile's bottleneck", figures["diagnosis"]["bottleneck"])
    findings.figure("profile's sentence", figures["diagnosis"]["sentence"])
    assert figures["measured"]["together"]["rate"] > 0, figures["measured"]


def options_of(settings: dict[str, Any]) -> list[str]:
    """Return `settings` as options of `fasttrain train`."""
    options: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{flag}")
        else:
            options += [f"--{flag}", str(value)]
    return options
