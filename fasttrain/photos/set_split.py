"""Draw the splits of multi-label photographs by iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD
2011)."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fasttrain.photos.group_split import cover_splits, shares_of
from fasttrain.photos.source import TEST, TRAIN, UNDECIDED, VAL

_NONE = -1  # stands for the class of photographs without classes


def place_sets(
    groups: Sequence[str],
    sets: Sequence[Sequence[int]],
    val_fraction: float,
    test_fraction: float,
    order: NDArray[np.int64],
    before: NDArray[np.int8],
) -> NDArray[np.int8]:
    """Return the split of each of n photographs, int8 [n], 0 train, 1 val, 2 test. It is the same for all photographs
    of a group.

    `groups` and `sets` have the group and the classes of each photograph. `order`, a permutation of 0 .. n - 1, is the
    order in which a class's groups are placed. Groups with a split in `before`, int8 [n], -1 for none, keep it. The
    fractions are in [0, 1).

    The class with the fewest remaining groups is handled first, so that rare classes are divided before common ones.
    Each of its groups goes to the split that lacks most photographs of the class. If several splits lack equally many,
    the group goes to the one that lacks most photographs in total. Every class has training photographs. It has
    validation and test photographs if it has enough groups.
    """
    held: dict[str, Counter[int]] = {}
    sizes: Counter[str] = Counter()
    for row in order.tolist():
        held.setdefault(groups[row], Counter()).update(sets[row] or (_NONE,))
        sizes[groups[row]] += 1
    split_of = {group: split for group, split in zip(groups, before.tolist(), strict=True) if split != UNDECIDED}
    splits = [TRAIN, *([VAL] if val_fraction else []), *([TEST] if test_fraction else [])]
    need = _needs(held, val_fraction, test_fraction)
    missing = {VAL: val_fraction * len(sets), TEST: test_fraction * len(sets)}
    missing[TRAIN] = len(sets) - missing[VAL] - missing[TEST]

    def place(group: str, split: int) -> None:
        split_of[group] = split
        missing[split] -= sizes[group]
        for label, count in held[group].items():
            need[split][label] -= count

    for group, split in tuple(split_of.items()):
        place(group, split)
    free = [group for group in held if group not in split_of]
    for label, waiting in _rarest_first(free, held, split_of):
        for group in waiting:
            place(group, max(splits, key=lambda split: (need[split][label], missing[split])))
    cover_splits(split_of, held, free, splits)
    return np.array([split_of[group] for group in groups], dtype=np.int8)


def _needs(held: dict[str, Counter[int]], val_fraction: float, test_fraction: float) -> dict[int, Counter[int]]:
    """Return how many photographs of each class each split should have."""
    total: Counter[int] = Counter()
    for counts in held.values():
        total.update(counts)
    need: dict[int, Counter[int]] = {split: Counter() for split in (TRAIN, VAL, TEST)}
    for label, count in total.items():
        validate, test = shares_of(count, val_fraction, test_fraction)
        need[TRAIN][label], need[VAL][label], need[TEST][label] = count - validate - test, validate, test
    return need


def _rarest_first(
    free: Sequence[str], held: dict[str, Counter[int]], split_of: dict[str, int]
) -> Iterator[tuple[int, list[str]]]:
    """Yield each class with its groups that have no split yet. The class with the fewest such groups is always next."""
    by_class: dict[int, list[str]] = {}
    for group in free:
        for label in held[group]:
            by_class.setdefault(label, []).append(group)
    heap = [(len(waiting), label) for label, waiting in by_class.items()]
    heapq.heapify(heap)
    while heap:
        count, label = heapq.heappop(heap)
        waiting = [group for group in by_class[label] if group not in split_of]
        if len(waiting) < count:  # some were placed for a rarer class in the meantime
            by_class[label] = waiting
            if waiting:
                heapq.heappush(heap, (len(waiting), label))
            continue
        yield label, waiting
