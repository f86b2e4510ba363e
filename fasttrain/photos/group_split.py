"""Draw splits that keep groups of photographs (of a patient, a product, a burst) together."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from fasttrain.photos.source import TEST, TRAIN, UNDECIDED, VAL


def shares_of(count: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    """Return the number of validation photographs and the number of test photographs of a class with `count`
    photographs.

    At least one photograph is left for training. Each number is at least one if its fraction is not 0 and there are
    enough photographs.
    """
    validate, available = _share(count, val_fraction, count - 1)
    test, _ = _share(count, test_fraction, available)
    return validate, test


def _share(count: int, fraction: float, available: int) -> tuple[int, int]:
    """Return the number of photographs for a split, and how many of the `available` ones are left.

    The number is the fraction of `count`, but at least one (if the fraction is not 0) and at most `available`.
    """
    share = min(max(round(count * fraction), 1), available) if fraction else 0
    return share, available - share


def place_groups(
    groups: list[str],
    labels: NDArray[np.int32],
    val_fraction: float,
    test_fraction: float,
    order: NDArray[np.int64],
    before: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]:
    """Return the split of each of n photographs, int8 [n], 0 train, 1 val, 2 test. It is the same for all photographs
    of a group.

    `groups` has the group of each photograph, `labels` is int32 [n], and the fractions are in [0, 1). `order`, a
    permutation of 0 .. n - 1, decides which of several groups of the same size is placed first. `before`, int8 [n], is
    each photograph's earlier split, or -1 for none. A group that has an earlier split keeps it.

    The largest groups are placed first, each in the split that is furthest short of photographs of the group's classes.
    Each class gets as close to the fractions as its groups allow. Every class has training photographs. It has
    validation and test photographs if it has enough groups.
    """
    held: dict[str, Counter[int]] = {}
    for row in order.tolist():
        held.setdefault(groups[row], Counter())[int(labels[row])] += 1
    total: Counter[int] = Counter(labels.tolist())
    shares = {TRAIN: 1 - val_fraction - test_fraction, VAL: val_fraction, TEST: test_fraction}
    shares = {split: share for split, share in shares.items() if share}
    need: dict[int, dict[int, float]] = {
        split: {label: share * count for label, count in total.items()} for split, share in shares.items()
    }
    given = [] if before is None else before.tolist()
    split_of = {group: int(split) for group, split in zip(groups, given, strict=False) if split != UNDECIDED}
    for group, split in split_of.items():
        for label, count in held[group].items():
            if split in need:
                need[split][label] -= count
    free = [group for group in held if group not in split_of]
    for group in sorted(free, key=lambda group: -sum(held[group].values())):
        lacks = {split: sum(count * need[split][label] for label, count in held[group].items()) for split in shares}
        split_of[group] = max(shares, key=lambda split: lacks[split])
        for label, count in held[group].items():
            need[split_of[group]][label] -= count
    cover_splits(split_of, held, free, list(shares))
    return np.array([split_of[group] for group in groups], dtype=np.int8)


def cover_splits(split_of: dict[str, int], held: dict[str, Counter[int]], free: list[str], splits: list[int]) -> None:
    """Move small groups between splits, so that every class has photographs in as many of the `splits` as possible.

    `split_of` has the split of each group and is changed. `held` has the number of photographs of each class in each
    group, and only the `free` groups are moved. Training comes first: a group is moved to the training split even if
    its class then has no photographs in the split that the group leaves.
    """
    by_class: dict[int, list[str]] = {}
    for group in sorted(free, key=lambda group: (sum(held[group].values()), group)):
        for label in held[group]:
            by_class.setdefault(label, []).append(group)
    placed = Counter((label, split_of[group]) for group in held for label in held[group])
    for split in splits:
        for label in sorted(by_class):
            if placed[label, split]:
                continue
            for group in by_class[label]:
                # A group may only move if each of its classes has another group in the split that it leaves.
                before = split_of[group]
                movable = all(placed[each, before] > 1 for each in held[group])
                if movable or split == TRAIN:
                    for each in held[group]:
                        placed[each, before] -= 1
                        placed[each, split] += 1
                    split_of[group] = split
                    break
