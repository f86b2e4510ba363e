"""Suggest settings that suit a data set, with the reason for each, from the result of `inspect`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fasttrain.inspection.findings import Inspection
from fasttrain.text import counted

USUAL_SIDE = 224  # px, of most pretrained weights
_LEAST_SIDE, _STRIDE = 32, 32
_STEPS = 20  # the least number of steps in an epoch, if there are enough photographs
_USUAL_BATCH, _LEAST_BATCH = 64, 8
_UNEQUAL, _VERY_UNEQUAL = 3, 10  # size of the largest class divided by that of the smallest
_FEW = 200  # photographs per class
_MANY = 200_000  # photographs
_MINUTES = 10
_SIDED = {"left", "right", "clockwise", "anticlockwise", "counterclockwise", "ccw"}
_WRITTEN = {"letter", "letters", "digit", "digits", "sign", "signs", "text", "arrow", "arrows", "alphabet"}


@dataclass(frozen=True)
class Suggestion:
    """A setting with its value and the reason for it. If not `active`, it is an alternative, shown as a comment."""

    name: str
    value: str | int | float | bool
    reason: str
    active: bool = True


def suggest(found: Inspection, *, cuda: bool, memory: int) -> list[Suggestion]:
    """Return suggested settings for the data set `found`.

    `cuda`: whether the machine has a CUDA device. `memory`: the size of the machine's memory (RAM) in bytes.
    """
    return [
        *_time(found, cuda),
        *_size(found, cuda),
        *_batch(found),
        *_imbalance(found),
        *_flips(found.classes),
        *_reading(found, memory),
    ]


def class_counts(found: Inspection) -> dict[str, int]:
    """Return the number of training photographs of each class, the largest class first."""
    return dict(sorted(found.splits["train"].items(), key=lambda each: -each[1]))


def imbalance(found: Inspection) -> float:
    """Return the size of the largest class divided by that of the smallest non-empty one, in training photographs."""
    counts = [count for count in class_counts(found).values() if count]
    return counts[0] / counts[-1] if counts else 1.0


def _time(found: Inspection, cuda: bool) -> Iterable[Suggestion]:
    train = found.split_samples["train"]
    if not cuda:
        yield Suggestion(
            "minutes",
            _MINUTES,
            "there is no GPU here: the run measures this machine and chooses epochs and sizes that fit into this time",
        )
        yield Suggestion("recipe", "accurate", "instead of minutes, if time does not matter: 30 epochs", False)
        return
    if train < _MANY:
        reason = (
            f"with {train:,} training photographs 30 epochs are affordable on a GPU: the recipe for the best accuracy"
        )
        yield Suggestion("recipe", "accurate", reason)
    else:
        reason = f"{train:,} training photographs are many: five epochs give a good first model"
        yield Suggestion("recipe", "fast", reason)
    yield Suggestion("minutes", _MINUTES, "instead of a recipe: the best model within this time", False)
    if train < _FEW * len(found.classes):
        reason = (
            f"fewer than {_FEW} photographs per class: the classifier is trained first, which preserves the pretrained "
            "features"
        )
        yield Suggestion("head_epochs", 3, reason)
    yield Suggestion("amp", True, "mixed precision, which is faster on GPUs")


def _size(found: Inspection, cuda: bool) -> Iterable[Suggestion]:
    if found.width is None or found.height is None:
        return
    seen = f"half of the photographs are smaller than {found.width.median} x {found.height.median} px"
    short = min(found.width.median, found.height.median)
    if short < USUAL_SIDE:
        side = max(short // _STRIDE * _STRIDE, _LEAST_SIDE)
        yield Suggestion("image_size", side, f"{seen}: a larger input would only enlarge them and take longer")
    elif cuda:
        yield Suggestion("image_size", USUAL_SIDE, f"{seen}, large enough for the size of most pretrained weights")
    else:
        yield Suggestion("image_size", USUAL_SIDE, f"{seen}; set this if minutes should not choose the size", False)


def _batch(found: Inspection) -> Iterable[Suggestion]:
    train = found.split_samples["train"]
    batch = _USUAL_BATCH
    while batch > _LEAST_BATCH and train < _STEPS * batch:
        batch //= 2
    if batch < _USUAL_BATCH:
        yield Suggestion(
            "batch_size", batch, f"{train:,} training photographs make {counted(-(-train // batch), 'step')} per epoch"
        )
    else:
        yield Suggestion("batch_size", batch, "the default; give a smaller one if memory runs out", False)


def _imbalance(found: Inspection) -> Iterable[Suggestion]:
    if found.cardinality is not None:
        yield Suggestion("monitor", "map", "photographs have several classes: choose the best epoch by mAP")
        reason = "if recall of rare classes matters more than precision"
        yield Suggestion("class_weights", "balanced", reason, False)
        return
    ratio = imbalance(found)
    if ratio < _UNEQUAL:
        return
    unequal = f"the largest class has {ratio:,.1f} times as many photographs as the smallest"
    if ratio >= _VERY_UNEQUAL:
        yield Suggestion("sampling", "balanced", f"{unequal}: train equally often on every class")
    else:
        yield Suggestion("class_weights", "balanced", f"{unequal}: rare classes get more weight in the loss")
    yield Suggestion(
        "monitor", "macro_f1", "choose the best epoch by all classes equally; rare ones hardly affect the accuracy"
    )


def _flips(classes: list[str]) -> Iterable[Suggestion]:
    words = {word: name for name in classes for word in re.split(r"[\W_]+", name.lower())}
    characters = [name for name in classes if re.fullmatch(r"\w|\d\d?", name)]
    if len(characters) >= 0.8 * len(classes):
        reason = f"classes such as {characters[0]} seem to be letters or digits, whose mirror images are wrong"
    elif named := [words[word] for word in (*sorted(_SIDED), *sorted(_WRITTEN)) if word in words]:
        reason = f"a mirror image of the class {named[0]} may belong to another class, or to none"
    else:
        yield Suggestion("hflip", 0.0, "if a mirror image is another class: letters, signs, left and right", False)
        return
    yield Suggestion("hflip", 0.0, f"{reason}; remove this setting if mirror images are fine")


def _reading(found: Inspection, memory: int) -> Iterable[Suggestion]:
    size = found.split_bytes["train"]
    if size > memory // 2:
        reason = f"{size / 1e9:,.0f} GB of photographs don't fit into memory: shuffle a few shards at a time"
        yield Suggestion("shuffle", "shards", reason)
    yield Suggestion("loader", "auto", "the fastest loader that can read these photographs here", False)
