"""Recognize the names of splits in names of folders, files and columns: `Train`, `VAL`, `testing_set`, `valid`,
`train2017`."""

from __future__ import annotations

import re

from fasttrain.photos.source import TEST, TRAIN, VAL

SPLIT_WORDS = {TRAIN: "training", VAL: "validation", TEST: "testing"}
_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "learn", "learning"), TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "validating", "dev", "devel", "development"), VAL),
    **dict.fromkeys(("eval", "evaluate", "evaluation"), VAL),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), TEST),
}
_OTHERS = (
    "set sets split data dataset subset images image imgs img photos photographs pictures pics folder files samples "
    "seg jpg jpeg png"
)
_IGNORED = frozenset(_OTHERS.split())


def split_of(name: str) -> int | None:
    """Return the split that a name stands for (0 train, 1 val, 2 test), or None if it stands for no split.

    Case, digits, punctuation and single letters are ignored, and so are additional words such as "set", "data" and
    "images".
    """
    words = [word for word in re.split(r"[\W\d_]+", _spaced(name).lower()) if word[1:] and word not in _IGNORED]
    if len(words) == 2 and words[0] in ("hold", "held") and words[1] == "out":
        return TEST
    return _WORDS.get(_without_set(words[0])) if len(words) == 1 else None


def splits_in(name: str) -> set[int]:
    """Return the splits that occur as words in a file's name: {0} for `imagenet-train-0001.tar`."""
    words = re.split(r"[\W\d_]+", _spaced(name).lower())
    return {_WORDS[word] for word in map(_without_set, words) if word in _WORDS}


def _spaced(name: str) -> str:
    """Return a name with spaces before capital letters: "TrainSet" becomes "Train Set"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def _without_set(word: str) -> str:
    """Return a word without an ending such as "set" or "data"."""
    for end in ("set", "data", "images", "split"):
        if word.endswith(end):
            return word[: -len(end)]
    return word
