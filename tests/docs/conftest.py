"""A working folder with everything that the pages take for granted."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import fasttrain
from tests.conftest import make_model_folder
from tests.docs.blocks import all_blocks

RUN = "20261124-101500-mobilenetv2_100"  # the run's name on the pages


@pytest.fixture(scope="session")
def run_folder(photographs: Path, shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model whose outputs change little with the last bits of a JPEG, but much with its content."""
    folder = make_model_folder(photographs, tmp_path_factory.mktemp("runs"), "test_convnext")
    evaluation = fasttrain.evaluate(folder, shard_folder, workers=0, device="cpu")
    (folder / "evaluation.json").write_text(json.dumps(evaluation.to_dict()))
    return folder


@pytest.fixture(scope="session")
def onnx_file(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    from fasttrain.export.export import export

    out = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export(run_folder, "onnx", out, photographs=6, speed=False).path


@pytest.fixture
def workplace(
    tmp_path: Path, run_folder: Path, photographs: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working directory with all that the pages take for granted: photographs, shards, a finished run, its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "photograph", raising=False)
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "photographs").symlink_to(photographs)
    for folder in ("shards", "runs"):
        Path(folder).mkdir()
    for path in shard_folder.iterdir():
        Path("shards", path.name).symlink_to(path)
    Path("shards/sample").symlink_to(shard_folder)
    Path("runs", RUN).symlink_to(run_folder)
    for name in ("model.safetensors", "model.json"):
        Path(name).symlink_to(run_folder / name)
    for name in ("dinner.jpg", "dish.jpg"):
        shutil.copy(photographs / "pizza" / "0000.jpg", name)
    for block in all_blocks():
        if block.file and block.file.endswith(".py"):
            Path(block.file).write_text(block.code)
    return tmp_path
