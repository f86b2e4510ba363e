from __future__ import annotations

import numpy as np

from fasttrain.photos.set_split import place_sets
from fasttrain.photos.source import TEST, TRAIN, VAL


def drawn(count: int = 600, seed: int = 0) -> np.ndarray:
    """bool [n, 7]: five classes, the rarest of a hundredth; the first photographs alone have one that two share."""
    held = np.random.default_rng(seed).random((count, 7)) < (0.5, 0.3, 0.1, 0.03, 0.01, 0, 0)
    held[:2, 5] = True
    held[2:5, 6] = True
    return held


def place(held: np.ndarray, groups: list[str] | None = None, before: np.ndarray | None = None, seed: int = 0):
    names = groups or [str(row) for row in range(len(held))]
    sets = [np.flatnonzero(row).tolist() for row in held]
    order = np.random.default_rng(seed).permutation(len(held))
    return place_sets(names, sets, 0.2, 0.1, order, np.full(len(held), -1, np.int8) if before is None else before)


def test_rare_classes_are_in_all_splits() -> None:
    held = drawn()
    splits = place(held)
    counts = np.array([held[splits == split].sum(0) for split in (TRAIN, VAL, TEST)])
    assert counts[:2, 5].tolist() == [1, 1]  # one of two photographs is for validation
    assert (counts[:, 6] == 1).all()
    assert (counts[:, :5] >= 1).all()
    shares = counts[1] / held.sum(0)
    assert np.abs(shares[:4] - 0.2).max() < 0.04
    none = np.array([(~held[splits == split].any(1)).sum() for split in (TRAIN, VAL, TEST)])
    assert abs(none[1] / none.sum() - 0.2) < 0.02


def test_a_random_split_would_not_do() -> None:
    """The same classes in a random split: the rare ones miss a split, which is what the algorithm is for."""
    held = drawn()
    lost = 0
    for seed in range(20):
        splits = np.random.default_rng(seed).choice(3, len(held), p=(0.7, 0.2, 0.1))
        lost += any(not held[splits == split].any(0).all() for split in (TRAIN, VAL))
    assert lost > 10


def test_groups_and_earlier_splits_stay() -> None:
    held = drawn()
    groups = [str(row // 3) for row in range(len(held))]
    splits = place(held, groups)
    assert all(len(set(splits[start : start + 3].tolist())) == 1 for start in range(0, len(held), 3))
    before = np.full(len(held), -1, np.int8)
    before[:100] = place(held)[:100]
    again = place(held, before=before)
    assert (again[:100] == before[:100]).all() and set(again[100:].tolist()) == {0, 1, 2}


def test_the_order_decides_and_repeats() -> None:
    held = drawn()
    assert (place(held) == place(held)).all()
    assert (place(held) != place(held, seed=1)).any()
