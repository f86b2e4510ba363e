"""Properties of every split: the same each time, its share of each class, and nothing in two splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fasttrain.photos import split
from fasttrain.photos.source import TEST, TRAIN, UNDECIDED, VAL, Source
from fasttrain.photos.split import shuffled
from fasttrain.shards.layout import lay_out

seeds = st.integers(0, 2**63 - 1)
fractions = st.one_of(st.just(0.0), st.floats(0, 1, exclude_max=True))
labels = st.lists(st.integers(0, 6), max_size=120).map(lambda given: np.array(given, dtype=np.int32))


def stratified_split(of: np.ndarray, val_fraction: float, seed: int) -> np.ndarray:
    """bool [n]: which photographs validate."""
    return split.stratified_split(of, val_fraction, seed) == VAL


@given(labels, fractions, seeds)
def test_each_class_gives_its_share_and_keeps_one(of: np.ndarray, fraction: float, seed: int) -> None:
    chosen = stratified_split(of, fraction, seed)
    assert chosen.dtype == np.bool_ and chosen.shape == of.shape
    assert np.array_equal(chosen, stratified_split(of, fraction, seed))
    for label in np.unique(of):
        count, taken = (of == label).sum(), chosen[of == label].sum()
        assert taken < count, "a class is never without training photographs"
        if fraction and count > 1:
            assert taken >= 1 and (abs(taken - count * fraction) <= 0.5 or taken in (1, count - 1))
        else:
            assert taken == 0


@given(labels, labels, fractions, seeds)
def test_other_classes_change_nothing(of: np.ndarray, more: np.ndarray, fraction: float, seed: int) -> None:
    """A class's choice stays when photographs of other classes come in, before, between or behind its own."""
    chosen = stratified_split(of, fraction, seed)
    others = more + 7
    ours = np.r_[np.zeros(len(more), np.bool_), np.ones(len(of), np.bool_)]
    order = np.argsort(np.r_[np.arange(len(more)) * 2, np.arange(len(of)) * 2 + 1], kind="stable")
    mixed = stratified_split(np.r_[others, of][order], fraction, seed)
    assert np.array_equal(mixed[ours[order]], chosen)


@given(st.integers(2, 400), st.integers(1, 400), st.floats(0.01, 0.99), seeds)
def test_photographs_added_at_the_end_move_few(count: int, more: int, fraction: float, seed: int) -> None:
    """A photograph that leaves validation was displaced by a new one: none is exchanged for another old one."""
    before = stratified_split(np.zeros(count, np.int32), fraction, seed)
    after = stratified_split(np.zeros(count + more, np.int32), fraction, seed)
    left = (before & ~after[:count]).sum()
    came = (~before & after[:count]).sum()
    assert not (left and came)
    assert left <= after[count:].sum()


@given(st.integers(0, 300), seeds, st.integers(0, 100))
def test_shuffled_is_a_permutation(count: int, seed: int, block: int) -> None:
    order = shuffled(count, seed, block)
    assert sorted(order.tolist()) == list(range(count)) and np.array_equal(order, shuffled(count, seed, block))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([TRAIN, VAL, TEST, UNDECIDED])), min_size=1, max_size=150),
    fractions,
    seeds,
    st.integers(1, 60),
)
def test_a_layout_holds_each_photograph_once_where_its_source_says(
    photographs: list[tuple[int, int]], fraction: float, seed: int, shard_size: int
) -> None:
    of, splits = (np.array(column) for column in zip(*photographs, strict=True))
    paths = tuple(f"{label}/{number}.jpg" for number, label in enumerate(of))
    source = Source(
        "folder", "f", Path("f"), tuple("abcdef"), paths, of.astype(np.int32), splits.astype(np.int8), (), ""
    )
    jobs = lay_out(source, val_fraction=fraction, seed=seed, shard_size=shard_size)
    rows = [row for job in jobs for row in job.rows.tolist()]
    assert sorted(rows) == list(range(len(paths))), "none lost, none in two splits"
    for job in jobs:
        assert 1 <= len(job.rows) <= shard_size
        wanted = splits[job.rows]
        assert ((wanted == job.split) | ((wanted == UNDECIDED) & (job.split in (TRAIN, VAL)))).all()
    assert len({job.name for job in jobs}) == len(jobs)
    assert [job.split for job in jobs] == sorted(job.split for job in jobs)
    repeated = lay_out(source, val_fraction=fraction, seed=seed, shard_size=shard_size)
    assert all(np.array_equal(one.rows, two.rows) for one, two in zip(jobs, repeated, strict=True))
    assert (source.splits == splits).all(), "the source is left as it was"
