"""Name the option that a mistyped one means."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

_ELSEWHERE = {
    "arch": "model",
    "backbone": "model",
    "bs": "batch-size",
    "data-dir": "data",
    "data-path": "data",
    "dataset": "data",
    "dropout": "drop-rate",
    "drop": "drop-rate",
    "fp16": "amp",
    "gradient-accumulation-steps": "grad-accumulation",
    "img-size": "image-size",
    "input-size": "image-size",
    "j": "workers",
    "lr0": "learning-rate",
    "mixed-precision": "amp",
    "model-ema-decay": "ema-decay",
    "nproc": "gpus",
    "opt": "optimizer",
    "output": "out",
    "output-dir": "out",
    "project": "out",
    "reprob": "random-erasing",
    "sched": "scheduler",
    "smoothing": "label-smoothing",
    "time": "minutes",
    "val-split": "val-fraction",
    "wd": "weight-decay",
    "world-size": "gpus",
}
"""Names that timm, Ultralytics, torchvision and Hugging Face use for our options."""

_LIKE = 0.65  # of 1, from which on a name is close enough to be meant


def suggestion(typed: str, known: Collection[str]) -> str:
    """Return "; did you mean --x?" for the option of `known` that `typed` is closest to, "" where none is close.

    Hyphens don't count, and shared words count for more than shared letters.
    """
    name = typed.partition("=")[0].lstrip("-").lower()
    if (elsewhere := f"--{_ELSEWHERE.get(name)}") in known:
        return f"; did you mean {elsewhere}?"
    closest = max(known, key=lambda option: _likeness(name, option.lstrip("-")), default="")
    return f"; did you mean {closest}?" if _likeness(name, closest.lstrip("-")) >= _LIKE else ""


def options_of(command: Any) -> list[str]:
    """Return the long options of one of typer's commands."""
    names = [name for each in command.params for name in (*each.opts, *each.secondary_opts)]
    return [name for name in names if name.startswith("--")]


def _likeness(one: str, other: str) -> float:
    letters = difflib.SequenceMatcher(None, one.replace("-", ""), other.replace("-", "")).ratio()
    ours, theirs = set(one.split("-")), set(other.split("-"))
    words = 2 * len(ours & theirs) / (len(ours) + len(theirs))
    return max(letters, (letters + words) / 1.5 if words else 0.0)
