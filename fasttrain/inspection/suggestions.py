"""Settings that suit a data set, each with the reason for it: a function of what `inspect` found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fasttrain.inspection.findings import Inspection

USUAL_SIDE = 224  # px, of most pretrained weights
_LEAST_SIDE, _STRIDE = 32, 32
_STEPS = 20  # an epoch has at least so many, where the photographs allow it
_USUAL_BATCH, _LEAST_BATCH = 64, 8
_UNEQUAL, _VERY_UNEQUAL = 3, 10  # the largest class over the smallest
_FEW = 200  # photographs a class
_MANY = 200_000  # photographs
_MINUTES = 10
_SIDED = {"left", "right", "clockwise", "anticlockwise", "counterclockwise", "ccw"}
_WRITTEN = {"letter", "letters", "digit", "digits", "sign", "signs", "text", "arrow", "arrows", "alphabet"}


@dataclass(frozen=True)
class Suggestion:
    """A setting, its value and the reason for it. One that isn't `active` is an alternative, shown as a comment."""

    name: str
    value: str | int | float | bool
    reason: str
    active: bool = True


def suggest(found: Inspection, *, cuda: bool, memory: int) -> list[Suggestion]:
    """Return the settings for a machine with or without a CUDA device, and with `memory` bytes."""
    return [
        *_time(found, cuda),
        *_size(found, cuda),
        *_batch(found),
        *_imbalance(found),
        *_flips(found.classes),
        *_reading(found, memory),
    ]


def class_counts(found: Inspection) -> dict[str, int]:
    """Return the training photographs of each class, the largest first."""
    return dict(sorted(found.splits["train"].items(), key=lambda each: -each[1]))


def imbalance(found: Inspection) -> float:
    """Return how many times as many training photographs the largest class has as the smallest that has any."""
    counts = [count for count in class_counts(found).values() if count]
    return counts[0] / counts[-1] if counts else 1.0


def _time(found: Inspection, cuda: bool) -> Iterable[Suggestion]:
    train = found.split_samples["train"]
    if not cuda:
        yield Suggestion(
            "minutes",
            _MINUTES,
            "no GPU here: the run measures this machine and chooses epochs and sizes that fit in so many minutes",
        )
        yield Suggestion("recipe", "accurate", "in place of minutes, where time does not matter: 30 epochs", False)
        return
    if train < _MANY:
        reason = (
            f"with {train:,} training photographs 30 epochs are affordable on a GPU: the recipe for the last points"
        )
        yield Suggestion("recipe", "accurate", reason)
    else:
        reason = f"{train:,} training photographs are many: five epochs make a first good model"
        yield Suggestion("recipe", "fast", reason)
    yield Suggestion("minutes", _MINUTES, "in place of a recipe: the best model in so many minutes", False)
    if train < _FEW * len(found.classes):
        reason = f"fewer than {_FEW} photographs a class: the classifier learns first, so that the features stay intact"
        yield Suggestion("head_epochs", 3, reason)
    yield Suggestion("amp", True, "mixed precision, which GPUs are faster in")


def _size(found: Inspection, cuda: bool) -> Iterable[Suggestion]:
    if found.width is None or found.height is None:
        return
    seen = f"half of the photographs are smaller than {found.width.median} x {found.height.median} px"
    short = min(found.width.median, found.height.median)
    if short < USUAL_SIDE:
        side = max(short // _STRIDE * _STRIDE, _LEAST_SIDE)
        yield Suggestion("image_size", side, f"{seen}: a larger input would only enlarge them, and take longer")
    elif cuda:
        yield Suggestion("image_size", USUAL_SIDE, f"{seen}, enough for the size of most pretrained weights")
    else:
        yield Suggestion("image_size", USUAL_SIDE, f"{seen}; set it where minutes should not choose", False)


def _batch(found: Inspection) -> Iterable[Suggestion]:
    train = found.split_samples["train"]
    batch = _USUAL_BATCH
    while batch > _LEAST_BATCH and train < _STEPS * batch:
        batch //= 2
    if batch < _USUAL_BATCH:
        yield Suggestion(
            "batch_size", batch, f"{train:,} training photographs make {-(-train // batch)} steps an epoch"
        )
    else:
        yield Suggestion("batch_size", batch, "the default; smaller where memory runs out", False)


def _imbalance(found: Inspection) -> Iterable[Suggestion]:
    if found.cardinality is not None:
        yield Suggestion("monitor", "map", "photographs have several classes: mAP chooses the best epoch")
        reason = "where recall of rare classes matters more than precision"
        yield Suggestion("class_weights", "balanced", reason, False)
        return
    ratio = imbalance(found)
    if ratio < _UNEQUAL:
        return
    unequal = f"the largest class has {ratio:,.1f} times as many photographs as the smallest"
    if ratio >= _VERY_UNEQUAL:
        yield Suggestion("sampling", "balanced", f"{unequal}: every class comes equally often")
    else:
        yield Suggestion("class_weights", "balanced", f"{unequal}: rare classes count for more in the loss")
    yield Suggestion(
        "monitor", "macro_f1", "chooses the best epoch by all classes alike; accuracy hardly sees rare ones"
    )


def _flips(classes: list[str]) -> Iterable[Suggestion]:
    words = {word: name for name in classes for word in re.split(r"[\W_]+", name.lower())}
    characters = [name for name in classes if re.fullmatch(r"\w|\d\d?", name)]
    if len(characters) >= 0.8 * len(classes):
        reason = f"classes such as {characters[0]} look like letters or digits, which mirrored are others or none"
    elif named := [words[word] for word in (*sorted(_SIDED), *sorted(_WRITTEN)) if word in words]:
        reason = f"the class {named[0]} is another one, or none, in a mirror"
    else:
        yield Suggestion("hflip", 0.0, "if a mirror image is another class: letters, signs, left and right", False)
        return
    yield Suggestion("hflip", 0.0, f"{reason}; take this out if mirror images are fine")


def _reading(found: Inspection, memory: int) -> Iterable[Suggestion]:
    size = found.split_bytes["train"]
    if size > memory // 2:
        reason = f"{size / 1e9:,.0f} GB of photographs don't stay in memory: a few shards are mixed at a time"
        yield Suggestion("shuffle", "shards", reason)
    yield Suggestion("loader", "auto", "the fastest that can read these photographs here", False)
