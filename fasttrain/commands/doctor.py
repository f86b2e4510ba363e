"""`doctor`: find out what this machine offers for training, and whether each part works."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import platform
import runpy
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fasttrain.cores import busy_cores_warning, usable_cores
from fasttrain.extras import dali_extra, install
from fasttrain.machine import native_fix
from fasttrain.text import counted
from fasttrain.tracking.store import importing_mlflow, set_environment

_DISTRIBUTIONS = {"nvidia.dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"), "fasttrain._native": ()}
"""The names of the installed packages of modules whose package has another name."""


@dataclass(frozen=True)
class Finding:
    """What was found about a `part` of the machine, such as "CUDA" or a package.

    `present`: whether the part can be used. `found`: a version, a name, or what is wrong. `fix`: what to install or to
    change, or "" if nothing.
    """

    part: str
    present: bool
    found: str
    fix: str = ""

    def to_dict(self) -> dict[str, str | bool]:
        return asdict(self)


def examine(thorough: bool = False) -> list[Finding]:
    """Return a finding each for Python, the cores, the CPU's abilities, torch, CUDA and the optional packages.

    By default packages are searched for but not imported, except the native module, and torch if only torch can tell
    what the machine has. `thorough`: import each package, because one may be installed but broken.
    """
    set_environment()
    found_torch = _torch(thorough or not _without_torch())
    others = busy_cores_warning()
    package = functools.partial(_package, thorough=thorough)
    return [
        Finding("Python", True, platform.python_version()),
        Finding(
            "cores",
            others is None,
            ", ".join([f"{usable_cores()} usable", platform.machine(), *filter(None, [others])]),
            "training has to wait for other programs; end these, or train with OMP_NUM_THREADS=1" if others else "",
        ),
        _cpu_abilities(),
        found_torch,
        _cuda(),
        package("torchvision", "torchvision", "pip install torchvision"),
        package("timm", "timm", "pip install timm"),
        package("MLflow", "mlflow", "pip install mlflow"),
        _package("native (the cut)", "fasttrain._native", native_fix(), thorough=True),
        _dali(thorough),
        package(
            "FFCV",
            "ffcv",
            "apt-get install pkg-config libturbojpeg0-dev libopencv-dev, then " + install("ffcv"),
        ),
        package("export", "onnx", install("export"), "onnxruntime", "onnxscript"),
        package("openvino", "openvino", install("openvino")),
        package("tune", "optuna", install("tune")),
        package("wandb", "wandb", install("wandb")),
        package("tensorboard", "tensorboard", install("tensorboard")),
        package("s3://", "s3fs", install("s3")),
        package("gs://", "gcsfs", install("gcs")),
        package("https://", "aiohttp", install("http")),
    ]


def _without_torch() -> bool:
    """Return whether this machine can be described without importing torch, which takes seconds.

    It can on Linux with an x86 CPU if the library of NVIDIA's driver, through which torch finds a GPU, is missing.
    Other systems, CPUs and builds of torch need the import.
    """
    version = _torch_version()
    if "torch" in sys.modules or version is None or version.hip or getattr(version, "xpu", None):
        return False
    return sys.platform == "linux" and not _has_nvidia_driver() and _has_fast_bf16() is not None


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _torch(wanted: bool) -> Finding:
    """Return the finding about torch. `wanted`: import torch, to find out whether it works."""
    found = _package("torch", "torch", "pip install torch", thorough=wanted)
    if not found.present:
        return found
    if (torch := _imported_torch()) is None:
        return Finding("torch", True, str(getattr(_torch_version(), "__version__", found.found)))
    return Finding("torch", True, f"{torch.__version__}, {counted(torch.get_num_threads(), 'thread')}")


def _imported_torch() -> Any:
    """Return torch if it is imported, else None."""
    return sys.modules.get("torch")


def _torch_version() -> Any:
    """Return `torch.version`, read from its file if torch isn't imported. None if there is no such file."""
    if (torch := _imported_torch()) is not None:
        return torch.version
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    return SimpleNamespace(**runpy.run_path(str(file))) if file is not None and file.is_file() else None


def _cpu_abilities() -> Finding:
    wanted = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX", "asimd": "NEON"}
    flags = _cpu_flags()
    have = [name for flag, name in wanted.items() if flag in flags]
    slow = None
    if (torch := _imported_torch()) is not None:
        from fasttrain.model.precision import amp_problem

        have = have or [torch.backends.cpu.get_cpu_capability()]  # macOS, Windows
        slow = amp_problem(torch.device("cpu"), "bf16")
    elif _has_fast_bf16() is False:
        slow = "this CPU has no fast bf16: training in fp32"
    return Finding("CPU abilities", bool(have), ", ".join(have) or "none known", f"--amp: {slow}" if slow else "")


def _cpu_flags() -> set[str]:
    """Return the CPU's features as Linux lists them, such as "avx512f"; an empty set on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def _has_fast_bf16() -> bool | None:
    """Return whether oneDNN has bf16 kernels for this CPU, as it has on x86 with AVX-512. None: only torch can tell."""
    flags = _cpu_flags()
    if {"avx512bw", "avx512dq", "avx512vl"} <= flags:
        return True
    return None if "avx2" not in flags or flags & {"avx512f", "avx_ne_convert"} else False


def _cuda() -> Finding:
    none = Finding("CUDA", False, "no device", "training runs on the CPU; a GPU needs NVIDIA's driver")
    if (torch := _imported_torch()) is None:
        return none
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        return Finding("CUDA", True, f"{names} (CUDA {torch.version.cuda}, bf16 {torch.cuda.is_bf16_supported(False)})")
    if torch.backends.mps.is_available():
        from fasttrain.model.precision import amp_problem

        return Finding("MPS", True, f"Apple's GPU (fast bf16 {not amp_problem(torch.device('mps'), 'bf16')})")
    return none


def _dali(thorough: bool = False) -> Finding:
    """Return the finding about DALI. On a machine with a GPU, check that DALI fits torch's CUDA version and decodes."""
    torch, cuda = _imported_torch(), getattr(_torch_version(), "cuda", None)
    on_gpu = torch is not None and torch.cuda.is_available()
    found = _package("DALI", "nvidia.dali", install(dali_extra(cuda)), thorough=thorough or on_gpu)
    if not found.present or not on_gpu:
        return found
    from fasttrain.loaders.dali_graph import start_problem

    version = int(sys.modules["nvidia.dali"].__cuda_version__)  # 12986 for 12.9
    if fix := dali_mismatch(version // 1000, cuda):
        return Finding("DALI", False, found.found, fix)
    if problem := start_problem("cuda"):
        return Finding("DALI", False, f"{found.found}: {problem}", "train with --loader native")
    return found


def dali_mismatch(major: int, cuda: str | None) -> str:
    """Return how to replace a DALI for CUDA `major` if it doesn't match torch's CUDA version `cuda`, otherwise ""."""
    if cuda is None or int(cuda.split(".")[0]) == major:
        return ""
    wrong = f"it is built for CUDA {major}, torch for CUDA {cuda}: pip uninstall nvidia-dali-cuda{major}0"
    return f"{wrong}, then {install(dali_extra(cuda))}"


def _package(part: str, module: str, fix: str, *others: str, thorough: bool) -> Finding:
    """Return the finding about `module` and `others`, the modules that `part` needs. `fix`: installs all of these."""
    for name in (module, *others):
        try:
            if not _is_installed(name):
                missing = f": {name}" if others else ""
                return Finding(part, False, f"not installed{missing}", fix)
            if thorough:
                with importing_mlflow():
                    importlib.import_module(name)
        except Exception as error:  # a broken binary can raise anything on import
            kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
            return Finding(part, False, f"does not import: {kind}{error}", fix)
    return Finding(
        part, True, ", ".join(f"{name} {_version(name)}" if others else _version(name) for name in (module, *others))
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _version(module: str) -> str:
    for name in _DISTRIBUTIONS.get(module, (module,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return str(getattr(sys.modules.get(module), "__version__", "present"))
