"""What this machine has: looked at, not guessed."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fasttrain.cores import crowded, usable_cores
from fasttrain.extras import dali_extra, install
from fasttrain.loaders.dali_graph import start_problem
from fasttrain.machine import native_fix
from fasttrain.model.precision import amp_problem
from fasttrain.tracking.store import importing_mlflow, set_environment


@dataclass(frozen=True)
class Finding:
    """One part of the machine: whether it is there, what was found, and how to get it (empty where nothing is due)."""

    part: str
    present: bool
    found: str
    mend: str = ""

    def to_dict(self) -> dict[str, str | bool]:
        return asdict(self)


def examine() -> list[Finding]:
    """Python, cores, CPU abilities, torch, CUDA, and each optional package, actually imported."""
    set_environment()
    others = crowded()
    return [
        Finding("Python", True, platform.python_version()),
        Finding(
            "cores",
            others is None,
            ", ".join([f"{usable_cores()} usable", platform.machine(), *filter(None, [others])]),
            "training waits for them again and again; end them, or train with OMP_NUM_THREADS=1" if others else "",
        ),
        _cpu_abilities(),
        Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"),
        _cuda(),
        _package("torchvision", "torchvision", "pip install torchvision"),
        _package("timm", "timm", "pip install timm"),
        _package("MLflow", "mlflow", "pip install mlflow"),
        _package("native (the cut)", "fasttrain._native", native_fix()),
        _dali(),
        _package(
            "FFCV",
            "ffcv",
            "apt-get install pkg-config libturbojpeg0-dev libopencv-dev, then " + install("ffcv"),
        ),
        _package("export", "onnx", install("export"), "onnxruntime", "onnxscript"),
        _package("openvino", "openvino", install("openvino")),
        _package("tune", "optuna", install("tune")),
        _package("s3://", "s3fs", install("s3")),
        _package("gs://", "gcsfs", install("gcs")),
        _package("https://", "aiohttp", install("http")),
    ]


def _cpu_abilities() -> Finding:
    wanted = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX", "asimd": "NEON"}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
        have = [name for flag, name in wanted.items() if flag in flags]
    except OSError:  # macOS, Windows
        have = [torch.backends.cpu.get_cpu_capability()]
    slow = amp_problem(torch.device("cpu"), "bf16")
    return Finding("CPU abilities", bool(have), ", ".join(have) or "none known", f"--amp: {slow}" if slow else "")


def _cuda() -> Finding:
    if not torch.cuda.is_available():
        if torch.backends.mps.is_available():
            return Finding("MPS", True, f"Apple's GPU (fast bf16 {not amp_problem(torch.device('mps'), 'bf16')})")
        return Finding("CUDA", False, "no device", "training runs on the CPU; a GPU needs NVIDIA's driver")
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return Finding("CUDA", True, f"{names} (CUDA {torch.version.cuda}, bf16 {torch.cuda.is_bf16_supported(False)})")


def _dali() -> Finding:
    """DALI, and on a machine with a GPU whether it goes with torch and decodes there."""
    found = _package("DALI", "nvidia.dali", install(dali_extra(torch.version.cuda)))
    if not found.present or not torch.cuda.is_available():
        return found
    version = int(sys.modules["nvidia.dali"].__cuda_version__)  # 12986 for 12.9
    if mend := dali_mismatch(version // 1000, torch.version.cuda):
        return Finding("DALI", False, found.found, mend)
    if problem := start_problem("cuda"):
        return Finding("DALI", False, f"{found.found}: {problem}", "training goes on with --loader native")
    return found


def dali_mismatch(major: int, cuda: str | None) -> str:
    """Return how to get the DALI that goes with a torch built for `cuda`, empty where one built for `major` does."""
    if cuda is None or int(cuda.split(".")[0]) == major:
        return ""
    wrong = f"it is built for CUDA {major}, torch for CUDA {cuda}: pip uninstall nvidia-dali-cuda{major}0"
    return f"{wrong}, then {install(dali_extra(cuda))}"


def _package(part: str, module: str, mend: str, *others: str) -> Finding:
    """`module`, whose version is told, and the `others` that the part needs besides."""
    for name in (module, *others):
        try:
            with importing_mlflow():
                importlib.import_module(name)
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in name
            said = f": {name}" if others else ""
            return Finding(part, False, f"not installed{said}" if absent else f"does not import: {error}", mend)
        except Exception as error:  # a broken binary can raise anything on import, and doctor is there to say so
            return Finding(part, False, f"does not import: {type(error).__name__}: {error}", mend)
    return Finding(part, True, ", ".join(_version(name, bool(others)) for name in (module, *others)))


def _version(module: str, named: bool) -> str:
    version = str(getattr(sys.modules[module], "__version__", "present"))
    return f"{module} {version}" if named else version
