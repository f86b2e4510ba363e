"""Whole epochs of `fasttrain train` against other trainers, the same photographs, model, batch and precision.

    git clone https://github.com/huggingface/pytorch-image-models   # timm's real train.py, run from where it lies
    git clone https://github.com/pytorch/vision                     # torchvision's reference recipe
    TIMM_REPO=pytorch-image-models VISION_REPO=vision pytest benchmarks/test_end_to_end.py -s

Each is a process of its own, run for one epoch and for three; the difference is two epochs without any start. Each
epoch has its validation. mobilenetv2_100 from scratch, SGD, fp32, channels-last where it can, 224 px, batch 32.
Each trainer has its own default data loading; fasttrain's shards are made beforehand, as its users would.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

IMAGES, BATCH, ROUNDS = 400, 32, 3
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data(photographs, tmp_path_factory):
    """train/ and val/ of class folders, and the shards of the same."""
    root = tmp_path_factory.mktemp("end_to_end") / "data"
    classes = sorted(path for path in photographs.iterdir() if path.is_dir())
    each = IMAGES // len(classes)
    for folder in classes:
        for number, path in enumerate(sorted(folder.glob("*.jp*g"))[:each]):
            link = root / ("val" if number % 5 == 4 else "train") / folder.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    from fasttrain.shards.convert import convert

    convert(str(root), root.parent / "shards", progress=False)
    return root


def commands(data: Path) -> dict[str, str]:
    """A command line with {epochs} for each trainer that is here."""
    python, classes = sys.executable, str(len(list((data / "train").iterdir())))
    out = data.parent
    loaders = {f"fasttrain, {name}": name for name in ("native", "torchvision")}
    found = {
        name: f"{python} -m fasttrain train --data {out}/shards --loader {loader} --no-pretrained --epochs {{epochs}} "
        f"--batch-size {BATCH} --optimizer sgd --learning-rate 0.01 --scheduler constant --early-stopping 0 "
        f"--out {out}/runs --no-track"
        for name, loader in loaders.items()
    }
    if repo := os.environ.get("TIMM_REPO"):
        found["timm's train.py"] = (
            f"{python} {Path(repo).resolve()}/train.py --data-dir {data} --val-split val --model mobilenetv2_100 "
            f"--num-classes {classes} --device cpu --channels-last --epochs {{epochs}} --batch-size {BATCH} --opt sgd "
            f"--lr 0.01 --warmup-epochs 0 --sched step --color-jitter 0 --workers 2 --no-prefetcher "
            f"--output {out}/timm --checkpoint-hist 1"
        )
    if repo := os.environ.get("VISION_REPO"):
        found["torchvision's reference"] = (
            f"{python} {Path(repo).resolve()}/references/classification/train.py --data-path {data} "
            f"--model mobilenet_v2 --device cpu --epochs {{epochs}} --batch-size {BATCH} --lr 0.01 --workers 2 "
            f"--output-dir {out}/vision --print-freq 100"
        )
    if subprocess.run([python, "-c", "import lightning"], capture_output=True).returncode == 0:
        found["Lightning"] = f"{python} {HERE}/trainers/lightning_script.py {data} {{epochs}} {BATCH} 2"
    return found


def seconds(command: str, epochs: int, data: Path) -> float:
    filled = command.format(epochs=epochs).split()
    start = time.perf_counter()
    done = subprocess.run(filled, capture_output=True, text=True, cwd=data.parent)
    assert done.returncode == 0, f"{' '.join(filled)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return time.perf_counter() - start


def test_trainers(data, short, results):
    if short:
        pytest.skip("not in the short form")
    count = len(list((data / "train").rglob("*.jp*g")))
    running = commands(data)
    rates = {name: [] for name in running}
    whole = {name: [] for name in running}
    for _ in range(ROUNDS):
        for name, command in running.items():
            one, three = seconds(command, 1, data), seconds(command, 3, data)
            rates[name].append(2 * count / (three - one))
            whole[name].append(three)
    part = {
        name: {"img/s": statistics.median(rates[name]), "seconds_for_three_epochs": statistics.median(whole[name])}
        for name in running
    }
    results.add("end_to_end", part)
    rows = [[name, f"{f['img/s']:.1f}", f"{f['seconds_for_three_epochs']:.1f}"] for name, f in part.items()]
    results.add_table("end_to_end", ["trainer", "img/s, with validation", "three epochs, start included, s"], rows)
