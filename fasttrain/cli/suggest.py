"""Suggest the right option for one that is mistyped or that another program uses."""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

_FOREIGN = {
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
"""The names that timm, Ultralytics, torchvision and Hugging Face use for fasttrain's options."""

_SIMILAR = 0.65  # the least similarity, in [0, 1], at which a name is suggested


def suggestion(typed: str, known: Collection[str]) -> str:
    """Return "; did you mean --x?" with the option of `known` that is most similar to `typed`.

    Return "" if no option is similar enough. Hyphens are ignored, and shared words count more than shared letters.
    """
    name = typed.partition("=")[0].lstrip("-").lower()
    if (translated := f"--{_FOREIGN.get(name)}") in known:
        return f"; did you mean {translated}?"
    closest = max(known, key=lambda option: _similarity(name, option.lstrip("-")), default="")
    return f"; did you mean {closest}?" if _similarity(name, closest.lstrip("-")) >= _SIMILAR else ""


def missing_checkpoint(name: str, arguments: list[str]) -> str:
    """Return the message for `arguments` without a model, which belongs to the parameter `name`.

    If one of the arguments is a model, the message has the command with `--checkpoint` before it.
    """
    from fasttrain.checkpoint.weights import EXPORTED, WEIGHTS

    def is_model(word: str) -> bool:
        path = Path(word)
        with contextlib.suppress(OSError):  # a word can be too long for a path
            return (path.suffix.lower() in (".safetensors", *EXPORTED) and path.is_file()) or (path / WEIGHTS).is_file()
        return False

    for place, (before, word) in enumerate(pairwise(arguments), start=1):
        if name.startswith("-") and not before.startswith("-") and (word == "latest" or is_model(word)):
            command = ["fasttrain", *arguments[:place], name, *arguments[place:]]
            return f"{name} is missing; did you mean `{shlex.join(command)}`?"
    return (
        f"{name.upper() if name.isidentifier() else name} is missing; give a run folder, or latest for the newest run"
    )


def options_of(command: Any) -> list[str]:
    """Return the long options of a typer command, such as "--batch-size"."""
    names = [name for each in command.params for name in (*each.opts, *each.secondary_opts)]
    return [name for name in names if name.startswith("--")]


def _similarity(one: str, other: str) -> float:
    letters = difflib.SequenceMatcher(None, one.replace("-", ""), other.replace("-", "")).ratio()
    words_of_one, words_of_other = set(one.split("-")), set(other.split("-"))
    words = 2 * len(words_of_one & words_of_other) / (len(words_of_one) + len(words_of_other))
    return max(letters, (letters + words) / 1.5 if words else 0.0)
