"""Optional dependencies ("extras"), such as fasttrain-vision[dali], [ffcv], [export] and [tune], and how to install
them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fasttrain.errors import UserError
from fasttrain.machine import relative_path

DISTRIBUTION = "fasttrain-vision"  # `fasttrain` on the Python Package Index is another project


def install(extra: str) -> str:
    """Return the shell command that installs `extra` for the running Python, even if its environment isn't active."""
    pip = shutil.which("pip")
    same_environment = pip is not None and Path(pip).parent == Path(sys.executable).parent
    python = min(sys.executable, relative_path(sys.executable), key=len)
    return ("pip" if same_environment else f"{python} -m pip") + f" install {_requirement(extra)}"


def _requirement(extra: str) -> str:
    """Return pip's arguments for `extra` of the installed fasttrain: of its clone, its wheel's file, or an index."""
    origin = _origin()
    if not (url := str(origin.get("url", ""))).startswith("file:"):
        return f"'{DISTRIBUTION}[{extra}]'"
    path = Path(url2pathname(urlsplit(url).path))
    clone = "." if path == Path.cwd() else str(path)
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"{editable}'{clone}[{extra}]'"


def _origin() -> dict[str, Any]:
    """Return what pip recorded of a clone or a file that fasttrain was installed from. Empty if it came from an index.

    The format is that of `direct_url.json` in the Python packaging specifications.
    """
    try:
        text = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}


def dali_extra(cuda: str | None) -> str:
    """Return the name of the extra that installs DALI for torch's CUDA version `cuda`, such as "13.0".

    `cuda` is None for a torch without CUDA.
    """
    return "dali-cuda130" if cuda is not None and int(cuda.split(".")[0]) >= 13 else "dali"


def require(what: str, extra: str, *modules: str) -> None:
    """Raise UserError if one of `modules` isn't installed.

    The message says that `what`, such as an option, needs the missing modules, and how to install `extra`. The modules
    are not imported.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: {install(extra)}")
