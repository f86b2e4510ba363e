"""What `inspect` finds, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LISTED_PAIRS = 10_000
"""Of a data set that holds each photograph many times there are millions: the rest are counted only."""


@dataclass(frozen=True)
class SampleName:
    """A sample as people find it again: its row in the index, its key in the tar, its split and its class."""

    id: int
    key: str
    split: str
    class_name: str


@dataclass(frozen=True)
class BrokenSample:
    """A sample that doesn't decode, the shard it lies in, and why."""

    sample: SampleName
    shard: str
    reason: str


@dataclass(frozen=True)
class DuplicatePair:
    """Two samples whose perceptual hashes differ in `distance` bits; `identical` where their bytes are the same."""

    first: SampleName
    second: SampleName
    distance: int
    identical: bool

    @property
    def across(self) -> bool:
        """Whether they lie in different splits: the model is then tested on what it learned from."""
        return self.first.split != self.second.split

    @property
    def relabelled(self) -> bool:
        """Whether they are in different classes: one of the labels is wrong."""
        return self.first.class_name != self.second.class_name


@dataclass(frozen=True)
class DuplicatesFound:
    """How many pairs are at most `distance` bits apart, of these how many across splits and in different classes.

    pairs: the first of them (see `LISTED_PAIRS`), those across splits first, then the nearest. leaked: how many
    photographs of "val" and "test" have such a twin in an earlier split.
    """

    distance: int
    total: int
    across: int
    relabelled: int
    leaked: dict[str, int]
    pairs: list[DuplicatePair]


@dataclass(frozen=True)
class Spread:
    """The least, the median and the greatest."""

    min: int
    median: int
    max: int

    @staticmethod
    def of(values: NDArray[np.int64]) -> Spread:
        return Spread(int(values.min()), int(np.median(values)), int(values.max()))


@dataclass(frozen=True)
class Cardinality:
    """How many classes a photograph has: the mean, the least and the greatest; `none`: photographs without any."""

    mean: float
    min: int
    max: int
    none: int


@dataclass
class Inspection:
    """The whole finding.

    splits: photographs of each class in each split. split_samples: photographs in each. cardinality: None where each
    photograph has one class. split_bytes: of the photographs alone; shard_bytes: of the tars;
    beton_bytes: of FFCV's files. width, height in pixels and length in bytes, None where the shards are empty.
    sampling: JPEGs by chroma sub-sampling ("4:2:0", "grey" ...), `progressive` of them; both empty for raw shards.
    counts and settings: the manifest's. rejected: files left out of the shards, by reason. duplicates: None where they
    weren't looked for. problems: what is wrong with whole files; broken: with samples. decoded: whether every sample
    was; verified: whether every checksum was compared, too.
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
        """What JSON can hold; `across` and `relabelled` stand in each pair, too."""
        plain = asdict(self)
        if self.duplicates is not None:
            for pair, shown in zip(self.duplicates.pairs, plain["duplicates"]["pairs"], strict=True):
                shown |= {"across": pair.across, "relabelled": pair.relabelled}
        return plain
