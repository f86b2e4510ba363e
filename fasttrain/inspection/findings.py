"""The result of `inspect` as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LISTED_PAIRS = 10_000
"""The greatest number of pairs to list.

A data set with many copies of each photograph can have millions of pairs. Further pairs are only counted.
"""


@dataclass(frozen=True)
class SampleName:
    """A sample's `id` (its row in the index), its `key` (its name in the tar file), its split and its class."""

    id: int
    key: str
    split: str
    class_name: str


@dataclass(frozen=True)
class BrokenSample:
    """A sample that can't be decoded, with the name of its shard and the reason."""

    sample: SampleName
    shard: str
    reason: str


@dataclass(frozen=True)
class DuplicatePair:
    """Two samples whose perceptual hashes differ in `distance` bits. `identical`: they have the same bytes."""

    first: SampleName
    second: SampleName
    distance: int
    identical: bool

    @property
    def across(self) -> bool:
        """Return whether the samples are in different splits, so a model may be tested on a training photograph."""
        return self.first.split != self.second.split

    @property
    def relabelled(self) -> bool:
        """Return whether the samples have different classes, so that one of the labels is probably wrong."""
        return self.first.class_name != self.second.class_name


@dataclass(frozen=True)
class DuplicatesFound:
    """The pairs of samples whose hashes are at most `distance` bits apart.

    `total`: the number of pairs. `across`: how many are in different splits. `relabelled`: how many have different
    classes. `leaked`: for "val" and "test", the number of photographs with a duplicate in an earlier split. `pairs`: at
    most `LISTED_PAIRS` of them, beginning with pairs across splits, then by distance.
    """

    distance: int
    total: int
    across: int
    relabelled: int
    leaked: dict[str, int]
    pairs: list[DuplicatePair]


@dataclass(frozen=True)
class Spread:
    """The minimum, the median and the maximum of some values."""

    min: int
    median: int
    max: int

    @staticmethod
    def of(values: NDArray[np.int64]) -> Spread:
        """Return the spread of `values`, int64 [n], which must not be empty."""
        return Spread(int(values.min()), int(np.median(values)), int(values.max()))


@dataclass(frozen=True)
class Cardinality:
    """The number of classes per photograph: mean, minimum and maximum. `none`: how many photographs have no class."""

    mean: float
    min: int
    max: int
    none: int


@dataclass
class Inspection:
    """The complete result of an inspection.

    `counts`, `settings`: from the manifest. `splits`: number of photographs by split and class. `split_samples`: number
    of photographs by split. `split_bytes`: total size of the photographs by split. `shards`: number of tar files.
    `shard_bytes`: their total size. `beton_bytes`: total size of FFCV's files. `width`, `height`: sizes of the
    photographs in pixels; `length`: in bytes; None if the shards are empty. `cardinality`: None for single-label
    shards. `sampling`: number of JPEGs by chroma sub-sampling ("4:2:0", "grey", …), empty for raw shards.
    `progressive`: number of progressive JPEGs. `rejected`: number of files left out of the shards, by reason.
    `duplicates`: None if they were not searched for. `broken`: the broken samples. `problems`: messages about entire
    files. `decoded`: every sample was decoded. `verified`: every checksum was compared. `seconds`: how long it took.
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
        """Return the number of photographs in all splits."""
        return sum(self.split_samples.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, in which each pair also has `across` and `relabelled`."""
        plain = asdict(self)
        if self.duplicates is not None:
            for pair, shown in zip(self.duplicates.pairs, plain["duplicates"]["pairs"], strict=True):
                shown |= {"across": pair.across, "relabelled": pair.relabelled}
        return plain
