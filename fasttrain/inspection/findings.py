"""The findings of `inspect`, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LISTED_PAIRS = 10_000
"""The greatest number of pairs to list.

A data set with many copies of each photograph has millions; others are only counted.
"""


@dataclass(frozen=True)
class SampleName:
    """A sample in the form in which people find it: its row in the index, its key in the tar, its split
    and its class."""

    id: int
    key: str
    split: str
    class_name: str


@dataclass(frozen=True)
class BrokenSample:
    """A sample that can't be decoded, its shard, and the reason."""

    sample: SampleName
    shard: str
    reason: str


@dataclass(frozen=True)
class DuplicatePair:
    """Two samples whose perceptual hashes differ in `distance` bits. `identical`: their bytes are the same."""

    first: SampleName
    second: SampleName
    distance: int
    identical: bool

    @property
    def across(self) -> bool:
        """True if they are in different splits. The model is then tested on a photograph that it was trained on."""
        return self.first.split != self.second.split

    @property
    def relabelled(self) -> bool:
        """True if they are in different classes. One of the labels is then wrong."""
        return self.first.class_name != self.second.class_name


@dataclass(frozen=True)
class DuplicatesFound:
    """The number of pairs at most `distance` bits apart, and how many are across splits and in different classes.

    `pairs`: the first of them (see `LISTED_PAIRS`), those across splits first, then by distance. `leaked`: the number
    of photographs of "val" and "test" with a duplicate in an earlier split.
    """

    distance: int
    total: int
    across: int
    relabelled: int
    leaked: dict[str, int]
    pairs: list[DuplicatePair]


@dataclass(frozen=True)
class Spread:
    """The minimum, the median and the maximum."""

    min: int
    median: int
    max: int

    @staticmethod
    def of(values: NDArray[np.int64]) -> Spread:
        return Spread(int(values.min()), int(np.median(values)), int(values.max()))


@dataclass(frozen=True)
class Cardinality:
    """How many classes a photograph has: mean, minimum and maximum. `none`: the photographs without any."""

    mean: float
    min: int
    max: int
    none: int


@dataclass
class Inspection:
    """The complete result of an inspection.

    `splits`: photographs of each class in each split. `split_samples`: photographs in each split. `cardinality`: None
    for single-label shards. `split_bytes`: of the photographs only. `shard_bytes`: of the tars. `beton_bytes`: of
    FFCV's files. `width`, `height`: in pixels; `length`: in bytes; None if the shards are empty. `sampling`: JPEGs by
    chroma sub-sampling ("4:2:0", "grey" ...). `progressive`: how many JPEGs are progressive. Both are empty for raw
    shards. `counts`, `settings`: those of the manifest. `rejected`: files left out of the shards, by reason.
    `duplicates`: None if they weren't searched for. `problems`: those of entire files. `broken`: broken samples.
    `decoded`: whether every sample was decoded. `verified`: whether every checksum was compared, too.
    """

    location: str
    source: str
    raw: bool
    settings: dict[str, Any]
    counts: dict[str, int]
    classes: list[str]
    splits: dict[str, dict[str, int]]
    split_samples: dict[str, int]
    split_bytes: dict[str, int]
    shards: int
    shard_bytes: int
    beton_bytes: int
    width: Spread | None
    height: Spread | None
    length: Spread | None
    cardinality: Cardinality | None = None
    sampling: dict[str, int] = field(default_factory=dict)
    progressive: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: DuplicatesFound | None = None
    broken: list[BrokenSample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    decoded: bool = False
    verified: bool = False
    seconds: float = 0.0

    @property
    def photographs(self) -> int:
        return sum(self.split_samples.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, with `across` and `relabelled` in each pair."""
        plain = asdict(self)
        if self.duplicates is not None:
            for pair, shown in zip(self.duplicates.pairs, plain["duplicates"]["pairs"], strict=True):
                shown |= {"across": pair.across, "relabelled": pair.relabelled}
        return plain
