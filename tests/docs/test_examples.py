"""The scripts of docs/examples: a training loop of each framework runs with its own loader, and with fasttrain's."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.patience import PATIENCE

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
RECORDER = Path(__file__).resolve().parents[1] / "support" / "deliveries.py"
# The modules that each needs beyond fasttrain's own.
SCRIPTS = {
    "plain_pytorch.py": (),
    "timm_loop.py": (),
    "lightning_module.py": ("lightning",),
    "lightning_fabric.py": ("lightning",),
    "hf_trainer.py": ("transformers", "accelerate"),
    "simclr.py": (),
}
DROP_LAST = {"timm_loop.py", "simclr.py"}
EPOCHS, BATCH, TRAIN, VAL = 2, 16, 72, 24


@pytest.fixture(scope="module")
def data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photographs/train` and `photographs/val`, and a cache for their shards."""
    folder = tmp_path_factory.mktemp("examples")
    for path in photographs.rglob("*.jpg"):
        split = "val" if path.stem >= "0012" else "train"
        out = folder / "photographs" / split / path.parent.name / path.name
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out)
    return folder


def run(script: str, data: Path) -> tuple[str, dict[int, list[list[int]]]]:
    """Run `script` to its end. Return what it prints, and by split size the photographs of each epoch's pass."""
    written = data / f"{script}.jsonl"
    options = ["--epochs", EPOCHS, "--size", 64, "--batch-size", BATCH]
    command = [RECORDER, written, EXAMPLES / script, data / "photographs", *options]
    environment = {**os.environ, "FASTTRAIN_CACHE": str(data / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = warm.run([str(each) for each in command], env=environment, cwd=data, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    passes: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for line in written.read_text().splitlines():
        batch = json.loads(line)
        passes[batch["of"]][batch["epoch"]] += batch["ids"]
    return done.stdout, {size: [epochs[each] for each in sorted(epochs)] for size, epochs in passes.items()}


def check(script: str, data: Path) -> None:
    out, passes = run(script, data)
    trained = TRAIN // BATCH * BATCH if script in DROP_LAST else TRAIN
    for name in ("torch", "fasttrain"):
        rates = re.findall(rf"^{name}, epoch (\d): .*?(\d+) photographs, ([\d,]+) images/s$", out, re.MULTILINE)
        assert [(int(epoch), int(seen)) for epoch, seen, _ in rates] == [(1, trained), (2, trained)], out
        assert all(int(rate.replace(",", "")) > 0 for _, _, rate in rates), out
    assert len(passes[TRAIN]) == EPOCHS, "each pass is the next epoch"
    for ids in passes[TRAIN]:
        assert len(ids) == len(set(ids)) == trained, "each photograph once"
    assert passes[TRAIN][0] != passes[TRAIN][1]
    assert all(set(ids) == set(passes[VAL][0]) for ids in passes.get(VAL, []))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.full
def test_each_photograph_is_trained_on_once_an_epoch(script: str, data: Path) -> None:
    for module in SCRIPTS[script]:
        pytest.importorskip(module, reason=f"{module} isn't installed: pip install 'fasttrain-vision[examples]'")
    check(script, data)


def test_the_page_shows_changes_of_under_ten_lines() -> None:
    page = (EXAMPLES.parent / "how-to" / "frameworks.md").read_text("utf-8")
    changes = re.findall(r"^\[[\w.]+\]\(\.\./examples/([\w.]+)\).*?```diff\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    assert {script for script, _ in changes} == SCRIPTS.keys()
    for script, change in changes:
        lines = {line.strip() for line in (EXAMPLES / script).read_text("utf-8").splitlines()}
        changed = [line for line in change.splitlines() if line.startswith(("+", "-"))]
        assert sum(line.startswith("+") for line in changed) < 10
        assert {line[1:].strip() for line in changed} <= lines, script


def test_every_example_is_run() -> None:
    elsewhere = {
        "dali_webdataset.py",
        "photograph.py",
        "exported_model.py",
    }  # tests/loaders/test_dali_alone.py, tests/export
    assert {path.name for path in EXAMPLES.glob("*.py")} - elsewhere == SCRIPTS.keys()
