"""`tools/food101.sh` from end to end, on a stand-in with Food-101's layout and number of classes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
CLASSES = [f"dish_{number:03}" for number in range(101)]
TINY = ("--no-pretrained", "--epochs", "1", "--image-size", "32", "--batch-size", "64", "--device", "cpu", "--no-amp")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Draw three photographs of each class to train on and one to test on, laid out as Food-101 is."""
    root = tmp_path / "food-101"
    (root / "meta").mkdir(parents=True)
    numbers = {"train": (1, 2, 3), "test": (4,)}
    for split, each in numbers.items():
        stems = [f"{name}/{number}" for name in CLASSES for number in each]
        (root / "meta" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    (root / "meta" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    random = np.random.default_rng(0)
    for name in CLASSES:
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for number in (1, 2, 3, 4):
            Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number}.jpg")
    return root


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.slow
@pytest.mark.full
def test_from_the_photographs_to_the_table_and_again_where_it_was_stopped(stand_in, tmp_path):
    out = tmp_path / "out"

    def food101() -> str:
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "FOOD101_SOURCE": str(stand_in),
            "FOOD101_MODELS": "test_resnet",
            "FOOD101_SEEDS": "1 2",
            "OMP_NUM_THREADS": "1",
        }
        command = ["bash", str(ROOT / "tools" / "food101.sh"), str(out), *TINY]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = food101()
    header, _, row = (out / "food101.md").read_text().splitlines()
    assert header in (ROOT / "docs" / "benchmarks" / "food101.md").read_text("utf-8"), "the page shows this layout"
    model, weights, _, _, _, photographs, _ = cells(row)
    assert (model, weights) == ("test_resnet", "none")
    assert photographs == "101", "each test photograph once"
    assert first.rstrip().endswith(row)

    runs = sorted((out / "runs").rglob("evaluation.json"))
    assert len(runs) == 2
    runs[1].unlink()
    untouched = runs[0].stat().st_mtime_ns
    again = food101()
    assert sorted((out / "runs").rglob("evaluation.json")) == runs, "the second run ended in its own folder"
    assert runs[0].stat().st_mtime_ns == untouched, "the first one was left alone"
    assert "resuming" in again
    assert cells((out / "food101.md").read_text().splitlines()[2])[:3] == cells(row)[:3], "the same top1"
