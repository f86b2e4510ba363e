"""Accounts without a home folder, as `docker run --user 12345` makes them: no HOME, no entry in /etc/passwd."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.patience import PATIENCE

_HOMELESS = """
import os, pwd, sys
def no_entry(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = no_entry
"""


def homeless(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in such an account: the modules read both from where they are patched here."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "FASTTRAIN_CACHE")}
    return subprocess.run(
        [sys.executable, "-c", _HOMELESS + code],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.slow
def test_the_cache_needs_a_variable(tmp_path) -> None:
    code = "sys.argv = ['fasttrain', 'convert', '--source', 'sample', '--out', sys.argv[-1]]\n"
    code += f"sys.argv[-1] = {str(tmp_path / 'shards')!r}\nfrom fasttrain.cli import main\nmain()"
    done = homeless(code)
    said = "this account has no home folder for the cache; set FASTTRAIN_CACHE to a folder that can be written"
    assert (done.returncode, done.stderr) == (2, f"fasttrain: {said}\n")
    assert not (tmp_path / "shards").exists()


@pytest.mark.slow
def test_mlflow_is_imported_all_the_same(tmp_path) -> None:
    """It is given a home folder for as long as it is imported, and no longer: others look for theirs."""
    code = """
from pathlib import Path
from fasttrain.tracking import tracker as tracking
tracking.FINISH_TIMEOUT = 600
with tracking.Tracker.start(None, None, {"lr": 1}, folder=Path("run")) as tracker:
    Path("run/a.png").write_bytes(b"png")
    tracker.log_artifacts([Path("run/a.png")])
print(len(list(Path("mlartifacts").rglob("a.png"))), "HOME" in os.environ)
"""
    done = homeless(f"os.chdir({str(tmp_path)!r})\n{code}", TMPDIR="/tmp")
    assert (done.returncode, done.stdout) == (0, "1 False\n"), done.stderr


@pytest.mark.slow
@pytest.mark.full
def test_doctor_imports_mlflow_there_too() -> None:
    code = "from fasttrain.commands.doctor import examine\n"
    code += "print([found.present for found in examine(thorough=True) if found.part == 'MLflow'], 'HOME' in os.environ)"
    done = homeless(code)
    assert (done.returncode, done.stdout) == (0, "[True] False\n"), done.stderr
