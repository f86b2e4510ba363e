"""An exported file alone: from a JPEG to class names by its metadata, in a process without fasttrain and torch."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fasttrain.data.photograph import read_photograph
from fasttrain.evaluation.predict import Predictor
from fasttrain.export.export import export
from fasttrain.export.registry import FORMATS
from tests.support.formats import format_or_skip

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = DOCS / "examples"
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


def _load(photograph: Path, side: int) -> NDArray[np.uint8]:
    """Return the pixels that the page's function loads."""
    pixels: NDArray[np.uint8] = runpy.run_path(str(EXAMPLES / "photograph.py"))["load_photograph"](photograph, side)
    return pixels


def test_pillows_pixels_are_nearly_those_of_fasttrain(photographs):
    for each in sorted(photographs.glob("*/000[0-4].jpg")):
        difference = np.abs(_load(each, 48) - read_photograph(each, 48).astype(float))
        assert difference.mean() <= 1 and difference.max() <= 10, each


@pytest.mark.full
@pytest.mark.parametrize(
    "format", ["onnx", "onnx-fp16", "onnx-int8", "openvino", "openvino-int8", "litert", "executorch"]
)
def test_the_file_alone_names_the_classes_that_predict_names(format, model_folder, shard_folder, photographs, tmp_path):
    kind = format_or_skip(format)
    path = tmp_path / f"model{kind.suffix}"
    file = export(model_folder, format, path, data=shard_folder, accept_drop=100, speed=False).path
    some = sorted(photographs.glob("*/000[0-4].jpg"))
    # Integers change many answers of an untrained model, so those of the file itself are expected.
    predictor = Predictor(file if "int8" in format else model_folder, device="cpu")
    # Decoders differ by a little (see above), which decides close calls: both get the pixels that the script loads.
    pixels = np.stack([_load(each, 48) for each in some])
    expected = [list(predictor.prediction(each, top_k=1).classes) for each in predictor.probabilities(pixels)]
    assert len({name for (name,) in expected}) > 1, "one class for all would be no test"
    assert _names(file, some, format) == expected


def test_the_script_loads_photographs_as_the_page_says():
    page = (DOCS / "how-to" / "deploy.md").read_text("utf-8")
    (code,) = re.findall(r'```python title="photograph.py"\n(.*?)```', page, re.DOTALL)
    assert (EXAMPLES / "photograph.py").read_text("utf-8") == code


@pytest.mark.parametrize("format", FORMATS)
def test_the_page_names_the_file_of_each_format(format):
    page = (DOCS / "how-to" / "deploy.md").read_text("utf-8")
    module, _, name = FORMATS[format].partition(":")
    suffix = getattr(importlib.import_module(module), name).suffix
    assert f"| `{format}` | `model{suffix}`" in page
