"""fasttrain on Linux without what macOS and Windows lack: see `support/other_system/sitecustomize.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, arguments

TAKEN = Path(__file__).parent / "support" / "other_system"
RUN = """
import json, sys
from pathlib import Path
from fasttrain.cli import main

if __name__ == "__main__":
    for line in json.loads(sys.argv[1]):
        sys.argv = ["fasttrain", *(str(next(Path("runs").iterdir())) if each == "RUN" else each for each in line)]
        try:
            main()
        except SystemExit as end:
            if end.code:
                sys.exit(f"{line} ended with {end.code}")
"""
EVERYTHING = """
import fasttrain
from fasttrain.cli import _COMMANDS, app

for name in fasttrain.__all__:
    getattr(fasttrain, name)
for command in _COMMANDS:
    try:
        app([command, "--help"])
    except SystemExit as end:
        assert not end.code, command
"""
FOUNDATIONS = """
import subprocess, sys
from pathlib import Path
from fasttrain import files, machine, memory

def refused(act):
    try:
        act()
    except OSError:
        return True

here, file = Path.cwd(), Path("file")
first, second = machine.lockable(here), machine.lockable(here)
assert machine.lock(first) and not machine.lock(second)
machine.unlock(first)
assert machine.lock(second) and machine.lock(first, wait=True, shared=True)

files.atomic_write_bytes(file, b"bytes")
with file.open("rb"):
    assert not machine.delete_unlocked(file) and refused(lambda: files.atomic_write_bytes(file, b"other"))
assert file.read_bytes() == b"bytes" and machine.delete_unlocked(file) and not file.exists()
with files.atomic_folder(file) as folder:
    (folder / "file").write_bytes(b"bytes")
assert file.read_bytes() == b"bytes"

process = machine.start_apart([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
machine.end_all(process, 60)
assert process.returncode
assert memory.limit("RLIMIT_NOFILE") is None and memory.free_memory() > 0 < memory.total_memory()
"""


def on(system: str, folder: Path, code: str, *arguments: str) -> str:
    """Run Python as on `system` in `folder`; return what it printed, which Windows writes in the code page 1252."""
    script = folder / "run.py"  # worker processes import it, as it is no fork
    script.write_text(code)
    path = f"{TAKEN}{os.pathsep}{Path(__file__).parents[1]}"
    environment = {**os.environ, "OTHER_SYSTEM": system, "PYTHONPATH": path, "COLUMNS": "200"}
    if system == "windows":
        environment["PYTHONIOENCODING"] = "cp1252"
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE * 5)
    output = (done.stdout + done.stderr).decode("cp1252" if system == "windows" else "utf-8")
    assert done.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("system", ["macos", "windows"])
def test_everything_imports_and_every_command_has_its_help(system, tmp_path):
    assert on(system, tmp_path, EVERYTHING).count("Usage:") >= 16


@pytest.mark.parametrize(
    ("system", "loader"), [pytest.param("macos", "native", marks=pytest.mark.full), ("windows", "torchvision")]
)
@pytest.mark.full
def test_from_photographs_to_predictions(system, loader, photographs, tmp_path):
    photograph, small = next(photographs.glob("*/*.jpg")), {**SMALL, "image_size": 32, "epochs": 1, "data": "shards"}
    shutil.copytree(photographs, tmp_path / "some", ignore=shutil.ignore_patterns("0015.jpg"))
    convert = ["convert", "--out", "shards", "--shard-size", "40", "--workers", "2", "--source"]
    lines = [
        ["doctor"],
        [*convert, "some", "--val-fraction", "0.3"],
        [*convert, "some", "--overwrite"],
        ["inspect", "shards", "--verify"],
        ["train", *arguments(**{**small, "loader": "auto", "device": "auto"})],
        ["train", *arguments(**small | {"workers": 1, "out": "other", "track": False})],
        ["train", "--resume", "RUN", "--epochs", "2", "--keep", "1"],
        [*convert, str(photographs), "--append"],
        ["evaluate", "--checkpoint", "RUN", "--data", "shards"],
        ["predict", "--checkpoint", "RUN", str(photograph)],
        ["runs"],
    ]
    output = on(system, tmp_path, RUN, json.dumps(lines))
    assert f"loader: {loader}" in output and "loader: torchvision" in output
    assert ("WSL" in output) == (system == "windows")
    (run,) = (tmp_path / "runs").iterdir()
    assert {"evaluation.json", "report.html", "model.safetensors"} <= {path.name for path in run.iterdir()}
    assert (tmp_path / "mlflow.db").exists() and photograph.parent.name in output


def test_what_stands_in_on_windows(tmp_path):
    on("windows", tmp_path, FOUNDATIONS)
