"""One process under load, for test_under_load.py: `python load.py WHAT ARGUMENTS` prints a JSON object at its end.

In a process of its own what is held is fasttrain's alone.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def held() -> dict[str, float]:
    """This process now: seconds, resident MB (`peak`: the most so far), file descriptors, threads, child processes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    children = "".join(map(_read, Path("/proc/self/task").glob("*/children")))
    return {
        "time": time.monotonic(),
        "rss": int(status["VmRSS"].split()[0]) / 1024,
        "peak": int(status["VmHWM"].split()[0]) / 1024,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
        "children": len(children.split()),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # a thread that ended meanwhile
        return ""


def soak(folder: str, epochs: str, seconds: str) -> dict[str, Any]:
    """Epoch after epoch of the native loader, until there were so many and so much time is over."""
    loader = _loader("native", folder)
    began, samples, photographs, epoch = time.monotonic(), [held()], 0, 0
    while epoch < int(epochs) or time.monotonic() - began < float(seconds):
        loader.set_epoch(epoch)
        for images, _, ids in loader:
            photographs += len(ids)
            images.numpy().copy()
        epoch += 1
        if time.monotonic() - samples[-1]["time"] > float(seconds) / 2000:
            samples.append(held())
    loader.close()
    return {"epochs": epoch, "photographs": photographs, "samples": samples}


def starts(folder: str, name: str, count: str) -> dict[str, Any]:
    """Iterators that are left after 0, 1, 2 or 3 batches, and every tenth time a loader that is closed.

    But for FFCV's: numba never frees the code that it compiled for one, 5 MB.
    """
    loader, samples = _loader(name, folder), []
    for number in range(int(count) + 10):
        loader.set_epoch(number)
        batches = iter(loader)
        for _ in range(number % 4):
            next(batches)
        del batches
        if number % 10 == 9:
            if name != "ffcv":
                loader.close()
                loader = _loader(name, folder)
            gc.collect()
            samples.append(held())
    loader.close()
    return {"samples": samples}


def runs(folder: str, out: str, epochs: str) -> dict[str, Any]:
    """One training run of many epochs, with its tracking, its history and its checkpoints."""
    from fasttrain import train

    samples = []
    result = train(
        **_tiny(folder, out), epochs=int(epochs), early_stopping=0, after_epoch=lambda *_: samples.append(held())
    )
    return {"epochs": len(result.history), "samples": samples}


def manifest(folder: str) -> dict[str, Any]:
    """A large data set's opening and its first plan: MB that they took, and Python calls that they made."""
    from fasttrain.loaders.plan import Crop, EpochPlan
    from fasttrain.shards.reader import ShardSet

    before, calls = held(), 0

    def counted(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(counted)
    shards = ShardSet.open(folder)
    ids, sizes, labels = shards.ids("train"), shards.sizes(), shards.labels()
    sys.setprofile(None)
    opened = held()
    plan = EpochPlan.training(ids, sizes, seed=0, epoch=0, size=224, crop=Crop())
    planned = held()
    return {
        "samples": len(shards),
        "labels": len(np.unique(labels[plan.ids])),
        "calls": calls,
        "seconds": opened["time"] - before["time"],
        "plan_seconds": planned["time"] - opened["time"],
        "mb": opened["peak"] - before["rss"],
        "plan_mb": planned["peak"] - before["rss"],
    }


def classes(source: str, out: str) -> dict[str, Any]:
    """convert, inspect, train, evaluate and report of a data set with many classes: MB at the most after each."""
    from fasttrain import convert, evaluate, predict, train
    from fasttrain.inspection.inspect import inspect
    from fasttrain.inspection.summary import inspection_summary
    from fasttrain.terminal import make_console

    shards, peaks, began = f"{out}/shards", {"start": held()["peak"]}, time.monotonic()

    def done(what: str) -> None:
        peaks[what] = held()["peak"]
        print(f"{what}: {peaks[what]:,.0f} MB, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)

    converted = convert(source, shards, progress=False, val_fraction=0.4)
    done("convert")
    found = inspect(shards, verify=True, progress=False)
    make_console(stderr=True).print(inspection_summary(found))
    done("inspect")
    result = train(**_tiny(shards, out), epochs=1)
    done("train")
    evaluated = evaluate(result.folder, shards, split="val", report=Path(out) / "page.html")
    done("evaluate")
    some = next(path for path in Path(source).rglob("*.jpg"))
    predict(result.folder, [some])
    done("predict")
    return {
        "classes": len(converted.manifest.classes),
        "photographs": converted.manifest.counts["stored"],
        "problems": len(found.problems),
        "evaluated": [evaluated.samples, converted.manifest.splits["val"]],
        "folder": str(result.folder),
        "peaks": peaks,
    }


def _loader(name: str, folder: str) -> Any:
    from fasttrain.loaders.base import LoaderSettings
    from fasttrain.loaders.plan import Crop
    from fasttrain.loaders.registry import loader_class
    from fasttrain.shards.reader import ShardSet

    shards = ShardSet.open(folder)
    kind = loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        print(json.dumps({"unavailable": reason}))
        raise SystemExit
    return kind(shards, shards.ids("train"), LoaderSettings(16, 64, Crop(), workers=2))


def _tiny(data: str, out: str) -> dict[str, Any]:
    return {
        "data": data,
        "out": f"{out}/runs",
        "model": "test_convnext",
        "pretrained": False,
        "image_size": 32,
        "batch_size": 16,
        "limit_batches": 4,
        "device": "cpu",
        "loader": "native",
        "workers": 1,
    }


if __name__ == "__main__":
    print("\n" + json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
