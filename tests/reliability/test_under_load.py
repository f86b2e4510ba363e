"""Long runs, many starts, many samples, many classes: what a process holds stays what it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from fasttrain.photos.cut import native_available

if TYPE_CHECKING:
    from conftest import Fault

_PROGRAM = Path(__file__).with_name("load.py")
_SYNTHETIC = Path(__file__).parents[2] / "tools" / "synthetic_shards.py"


def under_load(what: str, *arguments: object, folder: Path) -> dict[str, Any]:
    """Return the measurements of `load.py` in a separate process."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), what, *map(str, arguments)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "unavailable" in found:
        pytest.skip(found["unavailable"])
    return found


def flat(samples: list[dict[str, float]], most_mb: float, warm_up: float = 0.2) -> str:
    """Assert that the samples are flat after the `warm_up`, by a line fitted to memory; return a line about them."""
    steady = samples[int(len(samples) * warm_up) :]
    time, rss = (np.array([sample[name] for sample in steady]) for name in ("time", "rss"))
    slope = np.polyfit(time - time[0], rss, 1)[0]
    growth = slope * (time[-1] - time[0])
    assert growth < most_mb, f"{growth:.1f} MB more in {time[-1] - time[0]:.0f} s, {rss[0]:.0f} to {rss[-1]:.0f}"
    counts = {name: [int(sample[name]) for sample in steady] for name in ("files", "threads", "children")}
    for name, values in counts.items():
        half = len(values) // 2  # one more for a moment is a thread that is just ending, or a connection
        low, high = np.percentile(values, [10, 90])
        assert high - low <= 3, f"{name}: {values}"
        assert len(values) < 20 or min(values[half:]) <= max(values[:half]), f"{name}: {values}"
    said = f"{slope * 3600:+.1f} MB an hour ({growth:+.2f} MB in {time[-1] - time[0]:,.0f} s at {rss[-1]:.0f} MB)"
    return f"{said}, {counts['files'][-1]} file descriptors, {counts['threads'][-1]} threads"


@pytest.mark.skipif(not native_available(), reason="without the native module")
def test_soak_of_the_native_loader(fault: Fault, shard_folder: Path, tmp_path: Path) -> None:
    seconds = fault.times(short=0, full=20 * 60)
    found = under_load("soak", shard_folder, 400, seconds, folder=tmp_path)
    said = flat(found["samples"], most_mb=8)
    fault.seen(
        "a loader that runs for long",
        f"epoch after epoch of the native loader for {seconds // 60} minutes, each batch copied"
        if seconds
        else "400 epochs of the native loader, each batch copied",
        found["epochs"],
        measured=f"{said}; {found['photographs']:,} photographs",
    )


@pytest.mark.parametrize("name", ["native", "torchvision", "ffcv", "dali"])
def test_iterators_left_early_leave_nothing(fault: Fault, name: str, shard_folder: Path, tmp_path: Path) -> None:
    if name == "ffcv" and not fault.full:
        pytest.skip("numba compiles for 15 seconds: at full length only")
    times = fault.times(*(30, 1000) if name == "native" else (20, 100))
    found = under_load("starts", shard_folder, name, times, folder=tmp_path)
    said = flat(found["samples"], most_mb=8 if name == "native" else 24)
    fault.seen(
        f"an iterator of {name} that is left early",
        "left after 0, 1, 2 or 3 batches"
        + ("" if name == "ffcv" else "; every tenth time the loader is closed and another made"),
        times,
        measured=said,
    )


def test_a_run_of_many_epochs(fault: Fault, shard_folder: Path, tmp_path: Path) -> None:
    times = fault.times(short=12, full=200)
    found = under_load("runs", shard_folder, tmp_path, times, folder=tmp_path)
    assert found["epochs"] == times
    # torch takes its memory, and MLflow its connections, in the first few epochs.
    said = flat(found["samples"], *(40, 0.2) if fault.full else (150, 0.5))
    fault.seen("a run of many epochs", "tiny epochs, each with validation, checkpoint and MLflow", times, measured=said)


def test_a_million_samples(fault: Fault, tmp_path: Path) -> None:
    """No work in Python for each sample: the calls are those of shards and of chunks. Seconds: see benchmarks/."""
    samples, shards = 1_000_000, 1000
    numbers = map(str, (samples, shards, 1000))
    subprocess.run([sys.executable, str(_SYNTHETIC), str(tmp_path / "shards"), *numbers], check=True)
    found = under_load("manifest", tmp_path / "shards", folder=tmp_path)
    assert found["samples"] == samples and found["labels"] == 1000
    assert found["calls"] < samples // 4
    assert found["mb"] < 500 and found["plan_mb"] < 500
    fault.seen(
        "a data set of a million samples",
        f"an index of a million rows and a manifest of {shards:,} shards are opened, and an epoch is planned",
        1,
        measured=f"opened in {found['seconds']:.2f} s (profiled) with {found['mb']:.0f} MB, {found['calls']:,} calls, "
        f"planned in {found['plan_seconds']:.2f} s, {found['plan_mb']:.0f} MB in all at the most",
    )


def test_many_classes_and_a_class_of_one_photograph(fault: Fault, tmp_path: Path) -> None:
    """The whole way from photographs to the report; no more memory, and no longer a page, than a person can use."""
    count = fault.times(short=1200, full=10_000)
    draw_classes(tmp_path / "photographs", count)
    found = under_load("classes", tmp_path / "photographs", tmp_path, folder=tmp_path)
    assert found["classes"] == count and found["photographs"] == 2 * count - 1 and not found["problems"]
    run, peaks = Path(found["folder"]), found["peaks"]
    assert peaks["predict"] - peaks["start"] < 1500, f"MB: {peaks}"
    sizes = {path.name: path.stat().st_size for path in [*run.iterdir(), tmp_path / "page.html"] if path.is_file()}
    for name in ("report.html", "page.html", "evaluation.json", "confusion_matrix.png", "accuracy_by_class.png"):
        assert 1000 < sizes[name] < 5_000_000, f"{name}: {sizes}"
    Image.open(run / "confusion_matrix.png").verify()
    assert found["evaluated"] == [count - 1, count - 1]
    fault.seen(
        f"{count:,} classes, one of them with one photograph",
        "convert, inspect, train, evaluate, report and predict in one process",
        1,
        measured=f"{peaks['predict'] - peaks['start']:.0f} MB at the most, report.html of "
        f"{sizes['report.html'] / 1e6:.1f} MB",
    )
    shutil.rmtree(tmp_path / "photographs")


def draw_classes(folder: Path, count: int) -> None:
    """Two photographs of 40 x 32 px a class, one in class 0: of a colour that says the class."""
    for label in range(count):
        place = folder / f"class-{label:05d}"
        place.mkdir(parents=True)
        for number in range(1 if label == 0 else 2):
            colour = (label % 256, label // 256 * 6, 40 * number)
            Image.new("RGB", (40, 32), colour).save(place / f"{number}.jpg", quality=80)
