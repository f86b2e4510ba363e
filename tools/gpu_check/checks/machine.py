"""Checks 0 and 1: convert photographs for the other checks, and describe the machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check

_MANY = 16_384
"""The number of photographs in the larger set of shards, which has about 50 training batches of 256."""

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "triton", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "ffcv")


@check(0, "photographs, converted to shards", limit=75)
def data(setting: Setting, findings: Findings) -> None:
    """Convert the photographs to shards and, on CUDA, many copies of each photograph to a larger set of shards."""
    from fasttrain import convert
    from fasttrain.photos.sample import draw_sample

    setting.data.mkdir(parents=True, exist_ok=True)
    form = "tar,beton" if importlib.util.find_spec("ffcv") else "tar"
    photographs = setting.photographs
    if photographs is None:
        photographs = setting.data / "photographs"
        draw_sample(photographs, per_class=64 if setting.cuda else 12)
    began = time.perf_counter()
    found = [path for path in sorted(photographs.rglob("*")) if path.is_file()]
    convert(str(photographs), setting.shards, format=form, progress=False)
    findings.figure("photographs", len(found))
    if setting.cuda:
        copies = setting.data / "copies"
        for path in found:
            folder = copies / path.parent.relative_to(photographs)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(-(-_MANY // len(found))):
                shutil.copyfile(path, folder / f"{path.stem}-{number}{path.suffix}")
        convert(str(copies), setting.many, progress=False)
        shutil.rmtree(copies)
        findings.figure("photographs, copies included", len(found) * -(-_MANY // len(found)))
    findings.figure("seconds to convert", time.perf_counter() - began)


@check(1, "environment: driver, versions, copies from page-locked memory", limit=40)
def environment(setting: Setting, findings: Findings) -> None:
    """Note the machine's parts and versions, and on CUDA the rate of copies to the GPU."""
    import torch

    import fasttrain
    from fasttrain.cores import usable_cores
    from fasttrain.photos.cut import native_available

    findings.figure("fasttrain", fasttrain.__version__)
    findings.figure("Python", platform.python_version())
    findings.figure("cores", usable_cores())
    for package in _PACKAGES:
        try:
            findings.figure(package, version(package))
        except PackageNotFoundError:
            continue
    findings.figure("native module", native_available())
    assert native_available(), "fasttrain's native module is missing"
    if not setting.cuda:
        return
    with findings.part("driver"):
        if shutil.which("nvidia-smi") is None:
            raise Skipped("no nvidia-smi")
        asked = "--query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max"
        said = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
        findings.figure("nvidia-smi", (said.stdout or said.stderr).strip())
    assert torch.cuda.is_available(), "torch sees no GPU"
    properties = torch.cuda.get_device_properties(0)
    findings.figure("GPU", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    findings.figure("GPUs", torch.cuda.device_count())
    findings.figure("compute capability", f"{properties.major}.{properties.minor}")
    findings.figure("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    findings.figure("driver libraries", ", ".join(sorted(each.name for each in Path("/usr/local").glob("cuda*"))))
    findings.figure("expandable segments", os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "not set"))
    for name, pinned in (("page-locked", True), ("pageable", False)):
        with findings.part(f"copies from {name} memory"):
            findings.figure(f"GB/s from {name} memory", _copy_rate(pinned))


def _copy_rate(pinned: bool) -> float:
    """Return the rate of copies from the host to the GPU in GB/s, from page-locked memory if `pinned`."""
    import torch

    source = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty_like(source, device="cuda")
    for _ in range(2):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(8):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    return 8 * len(source) / (time.perf_counter() - began) / 1e9
