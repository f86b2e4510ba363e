"""An exported file alone: from a JPEG to class names by its metadata, in a process without fasttrain and torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fasttrain
from fasttrain.data.photograph import read_photograph
from fasttrain.export.export import export
from tests.support.formats import format_or_skip

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = DOCS / "examples"
MARGIN = 0.05  # of the probabilities of the two likeliest classes: pixels may be rounded differently, by 1
_ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[2].split(",")))
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _names(file: Path, photographs: list[Path], format: str) -> list[list[str]]:
    """Return the classes that the example script prints for each photograph."""
    script = EXAMPLES / "exported_model.py"
    absent = "fasttrain" if format == "executorch" else "fasttrain,torch"  # its runtime for Python imports torch
    command = [sys.executable, "-c", _ALONE, str(EXAMPLES), absent, str(script), str(file), *map(str, photographs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[each.rpartition(" ")[0] for each in line.split("\t")[1:]] for line in done.stdout.splitlines()]


def _shrunk(photographs: list[Path], folder: Path) -> list[Path]:
    """Write the photographs so small that the centre crop is as large as the model's input, and return their files.

    Filters of Pillow and fasttrain differ a little where they shrink, and an untrained model notices.
    """
    folder.mkdir()
    files = [folder / f"{number}.jpg" for number in range(len(photographs))]
    for photograph, file in zip(photographs, files, strict=True):
        Image.open(photograph).resize((55, 55)).save(file, quality=95, subsampling=0)
    return files


def test_pillows_pixels_are_those_of_fasttrain(photographs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from photograph import load_photograph

    some = sorted(photographs.glob("*/000[0-4].jpg"))
    for files, mean, most in ((some, 1.0, 10), (_shrunk(some, tmp_path / "shrunk"), 0.1, 1)):
        differences = [np.abs(load_photograph(each, 48) - read_photograph(each, 48).astype(float)) for each in files]
        assert max(each.mean() for each in differences) <= mean and np.max(differences) <= most


@pytest.mark.full
@pytest.mark.parametrize(
    "format", ["onnx", "onnx-fp16", "onnx-int8", "openvino", "openvino-int8", "litert", "executorch"]
)
def test_the_file_alone_names_the_classes_that_predict_names(format, model_folder, shard_folder, photographs, tmp_path):
    kind = format_or_skip(format)
    path = tmp_path / f"model{kind.suffix}"
    file = export(model_folder, format, path, data=shard_folder, accept_drop=100, speed=False).path
    some = _shrunk(sorted(photographs.glob("*/000[0-4].jpg")), tmp_path / "shrunk")
    # Integers change many answers of an untrained model, so those of the file itself are expected.
    asked = file if "int8" in format else model_folder
    expected = list(fasttrain.predict(asked, some, top_k=2, device="cpu"))
    clear = [each.probabilities[0] - each.probabilities[1] > MARGIN for each in expected]
    assert sum(clear) >= 0.8 * len(some), "else few answers are compared"
    named = _names(file, some, format)
    assert len(named) == len(some)
    for photograph, names, answer, is_clear in zip(some, named, expected, clear, strict=True):
        assert names[0] == answer.classes[0] or (not is_clear and names[0] == answer.classes[1]), photograph


def test_the_script_loads_photographs_as_the_page_says():
    page = (DOCS / "how-to" / "deploy.md").read_text("utf-8")
    (code,) = re.findall(r'```python title="photograph.py"\n(.*?)```', page, re.DOTALL)
    assert (EXAMPLES / "photograph.py").read_text("utf-8") == code
