"""Check 11: NCCL, DistributedDataParallel, SyncBatchNorm and accumulation; with two GPUs, two ranks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_STEPS = 6


@check(11, "NCCL with one rank (two if there are two GPUs): DDP, SyncBN, no_sync", limit=60)
def ranks(setting: Setting, findings: Findings) -> None:
    """Train as a single rank of NCCL (gloo on a CPU), and compare the losses with those of a run without ranks."""
    import torch
    import torch.distributed as dist

    with findings.part("one rank"):
        if setting.cuda:
            torch.cuda.set_device(0)
        store = f"file://{setting.folder}/store"
        backend = "nccl" if setting.cuda else "gloo"
        dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            with findings.part("DDP, accumulation"):
                _one_rank(setting, findings, sync_bn=False)
            with findings.part("SyncBN"):
                if not setting.cuda:
                    raise Skipped("needs CUDA")
                _one_rank(setting, findings, sync_bn=True)
        finally:
            dist.destroy_process_group()
    with findings.part("two ranks"):
        if not setting.cuda or torch.cuda.device_count() < 2:
            raise Skipped("needs two GPUs")
        _two_ranks(setting, findings)


def _one_rank(setting: Setting, findings: Findings, *, sync_bn: bool) -> None:
    from torch.nn.parallel import DistributedDataParallel

    from fasttrain.ranks import Ranks
    from tools.gpu_check.driving import made_parts, take_steps

    changes: dict[str, Any] = {"grad_accumulation": 2, "batch_size": 16, "learning_rate": 1e-4}
    with made_parts(setting, **changes) as parts:
        alone = take_steps(parts, _STEPS)
    with made_parts(setting, **changes) as parts:
        # In place, as the optimizer and the state hold the model's parameters.
        if sync_bn:
            converted = Ranks().sync_batch_norm(parts.model)
            assert converted is parts.model, "the model was replaced"
        # Ranks.parallel has no use for one rank, so the wrapper is made here, with the settings of a run.
        parallel = DistributedDataParallel(parts.model, broadcast_buffers=False, gradient_as_bucket_view=True)
        parts.step = replace(parts.step, parallel=parallel)
        together = take_steps(parts, _STEPS)
    off = [abs(one - other) / abs(other) for one, other in zip(together, alone, strict=True)]
    name = "SyncBN" if sync_bn else "DDP"
    findings.figure(f"{name}: greatest relative difference from no ranks", max(off))
    assert off[0] < 0.01 and max(off) < 0.05, f"{name}: losses {together}, without ranks {alone}"


def _two_ranks(setting: Setting, findings: Findings) -> None:
    from tools.gpu_check.checks.profiling import options_of
    from tools.gpu_check.driving import settings_of

    settings = settings_of(setting, epochs=1, batch_size=32, sync_bn=True, grad_accumulation=2, limit_batches=6)
    command = [sys.executable, "-m", "fasttrain", "train", "--gpus", "2", *options_of(settings)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=max(setting.left() - 2, 1))
    print(found.stdout, found.stderr)
    assert found.returncode == 0, f"exit code {found.returncode}: {found.stderr[-1500:]}"
    findings.figure("two ranks", "trained")
