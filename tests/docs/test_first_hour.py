"""A person's first hour: the lines of README, typed exactly as they stand, do what they promise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

from fasttrain.model.names import pretrained_config
from tests.support.hub_server import needs_hub, running_hub
from tests.support.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def lines_below(heading: str) -> list[str]:
    """Return the command lines of the first block below a heading of README, without their comments."""
    block = re.search(rf"^## {heading}$.*?^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block is not None, f"README has no block below '{heading}'"
    return [line.partition("  #")[0].strip() for line in block[1].splitlines()]


@pytest.mark.full
@needs_hub
def test_readmes_lines_lead_from_photographs_to_a_prediction(photographs, shard_folder, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(photographs, here / "photographs")
    shutil.copytree(shard_folder, here / "shards" / "sample")  # the quickstart was run before
    shutil.copy(next((here / "photographs").rglob("*.jpg")), here / "dinner.jpg")
    weights = save(timm.create_model("mobilenetv2_100").state_dict())
    with running_hub(tmp_path / "hub") as hub:
        hub.repositories[pretrained_config("mobilenetv2_100").hf_hub_id] = {"model.safetensors": weights}
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "FASTTRAIN_CACHE": str(tmp_path / "cache"),
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        lines = lines_below("Train on your photographs")
        assert [line.split()[1] for line in lines] == ["convert", "train", "predict"]
        for line in lines:
            done = subprocess.run(
                ["bash", "-c", line], cwd=here, env=environment, capture_output=True, text=True, timeout=PATIENCE
            )
            assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    assert (here / "shards" / "photographs" / "manifest.json").exists()
    (run,) = (here / "runs").iterdir()
    assert (run / "report.html").exists() and (here / "mlflow.db").exists()
    assert any(folder.name in done.stdout for folder in (here / "photographs").iterdir()), "a class of the photographs"
