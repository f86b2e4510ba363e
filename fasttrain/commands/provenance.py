"""Record the origin of a run: its command, its package versions, and the git commit of the working folder."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fasttrain
from fasttrain.tracking.store import shown
from fasttrain.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "mlflow",
    "ffcv",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
)
"""The packages that can affect a run's results. The versions of the installed ones are recorded."""

_GIT_S = 5.0
_WAIT_S = 1.0
# Don't let a repository's configuration start programs, and don't rewrite its index.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")


class Provenance:
    """Collects the origin of a run: the command, the package versions and the git commit of `folder`.

    `folder`: by default the working folder. A thread calls git while the run's model and loaders are created. The run
    waits at most one second for git, and continues without the commit if git is missing, slow or fails.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _working_folder()
        self._git: dict[str, Any] = {}
        self._own_git: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._call_git, name="fasttrain-git", daemon=True)
        self._thread.start()

    def to_dict(self, step: int) -> dict[str, Any]:
        """Return the origin as JSON data, for `provenance.json`.

        `step`: the optimizer step at which this process starts or resumes the run.
        """
        self._thread.join(_WAIT_S)
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "step": step,
            "command": command_line(),
            "folder": str(self._folder),
            "git": dict(self._git) or {"problem": f"git did not answer within {_WAIT_S:g} s"},
            **({"fasttrain_git": dict(self._own_git)} if self._own_git else {}),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": versions(),
        }

    def _call_git(self) -> None:
        _find_commit(self._folder, self._git)
        clone = Path(fasttrain.__file__).resolve().parents[1]
        if (clone / ".git").exists():  # otherwise fasttrain may be installed inside another project's repository
            _find_commit(clone, self._own_git)


def tags_of(start: Mapping[str, Any]) -> dict[str, str]:
    """Return the MLflow tags that describe the origin `start`, a result of `Provenance.to_dict`."""
    git, command = start["git"], start["command"]
    words = shlex.split(command)
    program = words[1] if words[:1] == ["python"] else " ".join(words[:2])  # MLflow's page cuts a name at slashes
    tags = {"command": command, "mlflow.source.name": program, "mlflow.source.type": "LOCAL"}
    if "commit" in git:
        tags["mlflow.source.git.commit"] = git["commit"]
    if git.get("clean") is not None:
        tags["mlflow.source.git.dirty"] = str(not git["clean"]).lower()
    return tags


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Return a command line, quoted for a shell, with passwords removed from URLs.

    `arguments`: the program and its arguments; None stands for the command line of this process.
    """
    given = list(sys.argv if arguments is None else arguments)
    own = Path(fasttrain.__file__).with_name("__main__.py")
    if given and (Path(given[0]).stem == "fasttrain" or Path(given[0]) == own):
        given[0] = "fasttrain"
    elif given:
        given.insert(0, "python")
    return shlex.join(map(shown, given))


def versions() -> dict[str, str]:
    """Return the versions of fasttrain and of each installed package of `PACKAGES`, by name."""
    found = {"fasttrain": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _find_commit(folder: Path, found: dict[str, Any]) -> None:
    """Store in `found` the repository around `folder` ("root"), its "commit", and "clean": no tracked file has changed.

    If git fails, store the reason as "problem".
    """
    try:
        root, commit = _git(folder, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        found |= {"root": root, "commit": commit, "clean": None}
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
        found["clean"] = not changed
    except FileNotFoundError:
        found["problem"] = "git is not installed"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        found["problem"] = str(error)


def _git(folder: Path, *arguments: str) -> str:
    """Run git in `folder` and return its output. Raises OSError, ValueError or SubprocessError if it fails."""
    # Files, not pipes: a loader's worker that is forked meanwhile would keep a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        environment = {**os.environ, "LC_ALL": "C"}
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
        command = [*_GIT, "-C", str(folder), *arguments]
        failed = subprocess.run(command, env=environment, timeout=_GIT_S, check=False, **streams).returncode
        output.seek(0)
        errors.seek(0)
        if failed:
            message = errors.read().decode(errors="replace").strip() or f"git ended with exit code {failed}"
            raise ValueError(message.splitlines()[0])
        return output.read().decode(errors="replace")


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path("/")
