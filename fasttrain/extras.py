"""Optional dependencies, installed when they are needed: fasttrain-vision[dali], [ffcv], [heif], [export], [tune] …"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.machine import relative_path

DISTRIBUTION = "fasttrain-vision"  # `fasttrain` on the Python Package Index is another project


def install(extra: str) -> str:
    """Return the command that adds `extra` to the running Python, whether or not its environment is activated."""
    pip = shutil.which("pip")
    ours = pip is not None and Path(pip).parent == Path(sys.executable).parent
    python = min(sys.executable, relative_path(sys.executable), key=len)
    return ("pip" if ours else f"{python} -m pip") + f" install '{DISTRIBUTION}[{extra}]'"


def dali_extra(cuda: str | None) -> str:
    """Return the extra with the DALI that goes with a torch built for `cuda`, such as "13.0"; None is for the CPU."""
    return "dali-cuda130" if cuda is not None and int(cuda.split(".")[0]) >= 13 else "dali"


def require(what: str, extra: str, *modules: str) -> None:
    """Raise UserError, which says how to get `extra`, if one of `modules` isn't installed. Imports none of them."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: {install(extra)}")
