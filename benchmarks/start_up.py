"""Measure the CPU seconds that commands take to start, as a Markdown table.

    python benchmarks/start_up.py                      # the median of three runs of each command
    python benchmarks/start_up.py --only train --runs 1

The seconds are user and system time of the command and the processes that it waits for, so other programs disturb them
less than the clock. `train` is watched through a terminal, up to its first line and up to its first step's loss.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FASTTRAIN = (sys.executable, "-m", "fasttrain")
BARE = (sys.executable, "-c", "import torch, timm")
SETTINGS = ("--model", "resnet18", "--no-pretrained", "--image-size", "64", "--batch-size", "8", "--workers", "1")
FIRST_STEP = rb"img/s"
TIMM = """
import sys, timm, torch
from PIL import Image
from safetensors.torch import load_file
model = timm.create_model("resnet18", num_classes=int(sys.argv[3])).eval()
model.load_state_dict(load_file(sys.argv[1]))
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
with torch.inference_mode():
    print(model(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(1).topk(3))
"""


def cpu_seconds(command: tuple[str, ...], folder: Path) -> float:
    """Return the CPU seconds of `command`, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_seconds_until(seen: bytes, command: tuple[str, ...], folder: Path) -> float:
    """Return the CPU seconds of `command` up to the moment when its terminal shows the pattern `seen`; then end it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        while not re.search(seen, shown):
            shown += os.read(ours, 4096)
        user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        raise SystemExit(f"{' '.join(command)} ended early:\n{shown.decode(errors='replace')}") from None
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def prepare(folder: Path) -> tuple[Path, Path, int]:
    """Make data, a run and MLflow's file in `folder`. Return the weights, a photograph and the number of classes."""
    import torch
    from PIL import Image

    random = torch.Generator().manual_seed(0)
    for name in ("apple", "bread", "cake"):
        (folder / "food" / name).mkdir(parents=True)
        for number in range(24):
            pixels = torch.randint(256, (80, 96, 3), dtype=torch.uint8, generator=random)
            Image.fromarray(pixels.numpy()).save(folder / "food" / name / f"{number}.jpg")
    for command in (
        ("convert", "--source", "food", "--out", "shards"),
        ("train", *SETTINGS, "--epochs", "1", "--out", "runs"),
    ):
        done = subprocess.run((*FASTTRAIN, *command), cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
    return next((folder / "runs").glob("*/model.safetensors")), folder / "food" / "apple" / "0.jpg", 3


def rows(folder: Path) -> dict[str, Callable[[], float]]:
    """Return what is measured, by its name in the table."""
    weights, photograph, classes = map(str, prepare(folder))
    train = (*FASTTRAIN, "train", *SETTINGS, "--epochs", "9", "--out", "others")
    minimal = (sys.executable, "-c", TIMM, weights, photograph, classes)
    return {
        "`import torch, timm`": lambda: cpu_seconds(BARE, folder),
        "`fasttrain --help`": lambda: cpu_seconds((*FASTTRAIN, "--help"), folder),
        "`fasttrain doctor`": lambda: cpu_seconds((*FASTTRAIN, "doctor"), folder),
        "`fasttrain runs`": lambda: cpu_seconds((*FASTTRAIN, "runs"), folder),
        "`fasttrain train`, to its first line": lambda: cpu_seconds_until(rb"\n", train, folder),
        "`fasttrain train`, to its first step": lambda: cpu_seconds_until(FIRST_STEP, train, folder),
        "`fasttrain predict`, one photograph": lambda: cpu_seconds(
            (*FASTTRAIN, "predict", photograph, "--checkpoint", weights), folder
        ),
        "a minimal timm script that does the same": lambda: cpu_seconds(minimal, folder),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    given = parser.parse_args()
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    print("| | CPU seconds |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in rows(Path(folder)).items():
            if given.only in name:
                print(f"| {name} | {statistics.median(measure() for _ in range(given.runs)):.2f} |", flush=True)


if __name__ == "__main__":
    main()
