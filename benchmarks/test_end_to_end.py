"""Whole epochs of `fasttrain train` against other trainers, the same photographs, model, batch and precision.

    git clone https://github.com/huggingface/pytorch-image-models   # timm's real train.py, run from where it lies
    git clone https://github.com/pytorch/vision                     # torchvision's reference recipe (or Debian's
                                                                    # source package: apt-get source pytorch-vision)
    TIMM_REPO=pytorch-image-models VISION_REPO=vision pytest benchmarks/test_end_to_end.py -s

Each is a process of its own, run for one epoch and for three; the difference is two epochs without any start. Each
epoch has its validation. mobilenetv2_100 from scratch, SGD, fp32, channels-last where it can, 224 px, batch 32.
Each trainer has its own default data loading; fasttrain's shards are made beforehand, as its users would.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
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


@dataclass
class Cost:
    """Seconds of wall clock and of CPU, and the greatest memory (PSS, all processes together) in bytes."""

    seconds: float
    cpu: float
    memory: int


def cost(command: str, epochs: int, data: Path) -> Cost:
    filled = command.format(epochs=epochs).split()
    with (data.parent / "said.txt").open("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(filled, stdout=said, stderr=subprocess.STDOUT, cwd=data.parent)
        memory, ended = 0, 0
        while not ended:
            time.sleep(0.5)
            memory = max(memory, memory_of(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        assert process.returncode == 0, f"{' '.join(filled)}\n{said.read()[-3000:]}"
    return Cost(seconds, used.ru_utime + used.ru_stime, memory)


def memory_of(pid: int) -> int:
    """PSS in bytes of a process and those it started: memory that they share counts once."""
    total = 0
    for each in [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]:
        with contextlib.suppress(OSError, psutil.Error):
            total += psutil.Process(each).memory_full_info().pss
    return total


def test_trainers(data, short, results):
    if short:
        pytest.skip("not in the short form")
    count = len(list((data / "train").rglob("*.jp*g")))
    running = commands(data)
    found: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in running}
    for _ in range(ROUNDS):
        for name, command in running.items():
            found[name].append((cost(command, 1, data), cost(command, 3, data)))
    part = summary(found, 2 * count)
    results.add("end_to_end", part)
    rows = [
        [
            name,
            f"{each['img/s']:.1f}",
            f"{each['cpu_seconds'] * 1000 / (2 * count):.0f}",
            f"{each['seconds_for_three_epochs']:.1f}",
            f"{each['memory_bytes'] / 1e9:.2f}",
        ]
        for name, each in part.items()
    ]
    header = ["trainer", "img/s, with validation", "CPU ms an image", "three epochs, start included, s", "memory, GB"]
    results.add_table("end_to_end", header, rows)


def summary(found: dict[str, list[tuple[Cost, Cost]]], images: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds; rates from the difference of three epochs and one, which holds `images`."""

    def median(of: Callable[[Cost, Cost], float], rounds: list[tuple[Cost, Cost]]) -> float:
        return statistics.median(of(one, three) for one, three in rounds)

    return {
        name: {
            "img/s": median(lambda one, three: images / (three.seconds - one.seconds), rounds),
            "cpu_seconds": median(lambda one, three: three.cpu - one.cpu, rounds),
            "seconds_for_three_epochs": median(lambda one, three: three.seconds, rounds),
            "memory_bytes": median(lambda one, three: three.memory, rounds),
        }
        for name, rounds in found.items()
    }
