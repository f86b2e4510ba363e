"""An exported file alone: from a JPEG to class names by its metadata, in a process without fasttrain and torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fasttrain
from fasttrain.data.photograph import read_photograph
from fasttrain.export.export import export
from fasttrain.export.registry import make_format

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = DOCS / "examples"
_ALONE = """
import runpy, sys
sys.modules["fasttrain"] = sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _names(file: Path, photographs: list[Path]) -> list[list[str]]:
    """Return the classes that the example script prints for each photograph."""
    script = EXAMPLES / "exported_model.py"
    command = [sys.executable, "-c", _ALONE, str(EXAMPLES), str(script), str(file), *map(str, photographs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[each.rpartition(" ")[0] for each in line.split("\t")[1:]] for line in done.stdout.splitlines()]


@pytest.mark.full
@pytest.mark.parametrize("format", ["onnx", "onnx-fp16", "onnx-int8", "openvino", "openvino-int8"])
def test_the_file_alone_names_the_classes_that_predict_names(format, model_folder, shard_folder, photographs, tmp_path):
    pytest.importorskip("openvino" if "openvino" in format else "onnxruntime")
    file = export(
        model_folder,
        format,
        tmp_path / f"model{make_format(format).suffix}",
        data=shard_folder,
        accept_drop=100,
        speed=False,
    ).path
    some = sorted(photographs.glob("*/000[0-4].jpg"))
    if "int8" in format:  # integers change many answers of an untrained model: the file's own, in this process
        pixels = torch.stack([torch.as_tensor(read_photograph(each, 48)) for each in some])
        classes = sorted(each.name for each in photographs.iterdir())
        expected = [[classes[each]] for each in make_format(format).open(file, 1)(pixels).argmax(1)]
    else:
        expected = [list(each.classes) for each in fasttrain.predict(model_folder, some, top_k=1, device="cpu")]
    same = sum(one == other for one, other in zip(_names(file, some), expected, strict=True))
    assert same >= 0.9 * len(some), "Pillow's pixels differ by a little, which decides close calls"


def test_the_script_loads_photographs_as_the_page_says():
    page = (DOCS / "how-to" / "deploy.md").read_text("utf-8")
    (code,) = re.findall(r'```python title="photograph.py"\n(.*?)```', page, re.DOTALL)
    assert (EXAMPLES / "photograph.py").read_text("utf-8") == code
