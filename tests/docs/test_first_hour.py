"""A person's first hour: the lines of README and of the tutorial, typed exactly as they stand, do what they promise."""

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
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
sys.path.insert(0, str(ROOT / "docs" / "scripts"))

import record  # noqa: E402

DIFFERS = (
    (r"\b(improved  |no better)", "JUDGED"),
    (r"\b(donuts|pancakes|pizza|salad|soup|sushi)\b", "CLASS"),  # which are the worst, and the likeliest
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"(\d+ h )?(\d+ min )?\d+(\.\d+)? s\b", "TIME"),
    (r"[-+]?\d[\d,.]*(e[-+]\d+)?", "N"),
    (r"\s+", " "),
)
"""What one run prints differently from another, and what stands for it when the two are compared."""


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


def without_figures(line: str) -> str:
    """Return `line` without what differs from run to run."""
    for pattern, instead in DIFFERS:
        line = re.sub(pattern, instead, line)
    return line.strip()


def blocks(page: str) -> list[list[str]]:
    """Return the lines of each block of commands with what they print."""
    return [block[2].splitlines() for block in record.BLOCK.finditer(page)]


def test_what_is_compared_keeps_the_words():
    line = "epoch  3/12  train loss 2.9343 acc 38.23%  val loss 4.8204 acc 40.00%"
    assert without_figures(line) == "epoch N/N train loss N acc N% val loss N acc N%"
    assert without_figures("  improved   lr 3.87e-04  1 min 43 s  9 img/s") == "JUDGED lr N TIME N img/s"


@pytest.mark.full
def test_the_tutorials_lines_print_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    printed = record.typed(TUTORIAL, tmp_path, limit_s=6 * PATIENCE)
    for shown, found in zip(blocks(TUTORIAL), blocks(printed), strict=True):
        if shown[0] == "$ fasttrain doctor":  # each machine has its own parts
            continue
        left = iter(map(without_figures, found))
        # A busy machine may print a warning in between.
        lacking = next((line for line in shown if without_figures(line) not in left), None)
        assert lacking is None, (f"{lacking!r} isn't printed any more; run python docs/scripts/record.py", found)
