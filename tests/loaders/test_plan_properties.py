"""Properties of every plan: each sample once an epoch, ranks that share it out, resuming at any place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasttrain.loaders.base import Loader, LoaderSettings
from fasttrain.loaders.philox import random_words
from fasttrain.loaders.plan import (
    BadSamples,
    Batch,
    Crop,
    EpochPlan,
    centre_boxes,
    epoch_order,
    random_resized_crops,
)
from fasttrain.shards.reader import ShardSet

seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**56 - 1)
batch_sizes = st.integers(1, 40)
worlds = st.integers(1, 5)
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@st.composite
def id_lists(draw: st.DrawFn, least: int = 0) -> np.ndarray:
    """Sorted, all different, with gaps: a split's rows of an index."""
    return np.array(sorted(draw(st.sets(st.integers(0, 3000), min_size=least, max_size=150))), dtype=np.int64)


@st.composite
def plans(draw: st.DrawFn, least: int = 0) -> EpochPlan:
    ids = draw(id_lists(least))
    heights, widths = draw(sizes), draw(sizes)
    table = np.stack([np.resize(heights, 3001), np.resize(widths, 3001)], axis=1).astype(np.int32)
    if draw(st.booleans()):
        return EpochPlan.evaluation(ids, table, size=32)
    shards = ids // draw(st.integers(1, 500)) if draw(st.booleans()) else None
    return EpochPlan.training(ids, table, seed=draw(seeds), epoch=draw(epochs), size=32, crop=Crop(), shards=shards)


def same(one: EpochPlan | Batch, other: EpochPlan | Batch) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("ids", "boxes", "flips", "size"))


@given(id_lists(), seeds, epochs, st.one_of(st.none(), st.integers(1, 500)))
def test_an_order_is_a_permutation_and_repeats(ids: np.ndarray, seed: int, epoch: int, per_shard: int | None) -> None:
    shards = None if per_shard is None else ids // per_shard
    order = epoch_order(ids, seed, epoch, shards)
    assert order.dtype == np.int64 and sorted(order.tolist()) == ids.tolist()
    assert np.array_equal(order, epoch_order(ids, seed, epoch, shards))


@given(id_lists(), seeds, epochs, st.integers(1, 500), st.data())
def test_the_order_of_some_is_that_of_all(
    ids: np.ndarray, seed: int, epoch: int, per_shard: int, data: st.DataObject
) -> None:
    """A sample's place depends on no other sample: taking some away leaves the others' order."""
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))), dtype=np.bool_)
    order = epoch_order(ids, seed, epoch)
    assert epoch_order(ids[kept], seed, epoch).tolist() == [each for each in order.tolist() if each in set(ids[kept])]


@given(seeds, epochs, st.integers(0, 255), st.integers(0, 60), st.integers(0, 2**40), st.integers(1, 6), st.data())
def test_words_belong_to_the_sample(
    seed: int, epoch: int, stream: int, count: int, first: int, blocks: int, data: st.DataObject
) -> None:
    words = random_words(seed, epoch, stream, count, 4 * blocks, first)
    skipped = data.draw(st.integers(0, count))
    assert words.shape == (count, 4 * blocks) and words.dtype == np.uint64
    assert np.array_equal(
        random_words(seed, epoch, stream, count - skipped, 4 * blocks, first + skipped), words[skipped:]
    )


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"seed": 2**64}, {"epoch": -1}, {"epoch": 2**56}, {"stream": -1}, {"stream": 256}, {"words": 6}],
)
def test_streams_that_there_are_not(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no such stream: seed="):
        random_words(**{"seed": 0, "epoch": 0, "stream": 0, "count": 1, "words": 4, **wrong})


@given(
    st.lists(sizes, min_size=1, max_size=40),
    seeds,
    epochs,
    st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted),
    st.floats(0, 1),
)
def test_boxes_lie_inside_whatever_the_settings(
    pictures: list[tuple[int, int]], seed: int, epoch: int, scale: Sequence[float], ratio: Sequence[float], flip: float
) -> None:
    array, ids = np.array(pictures, dtype=np.int32), np.arange(len(pictures))
    crop = Crop(scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]), flip=flip)
    drawn, flips = random_resized_crops(ids, array, seed, epoch, crop)
    for boxes in (drawn, centre_boxes(array)):
        assert boxes.dtype == np.int32 and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= array).all()
    assert flips.dtype == np.bool_ and (flip not in (0, 1) or (flips == bool(flip)).all())


@given(id_lists(least=1), seeds, epochs, st.data())
def test_a_box_does_not_depend_on_its_company(ids: np.ndarray, seed: int, epoch: int, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=20)))
    pictures = np.stack([ids % 700 + 1, ids % 900 + 1], axis=1).astype(np.int32)
    boxes, flips = random_resized_crops(ids, pictures, seed, epoch, Crop())
    some_boxes, some_flips = random_resized_crops(ids[rows], pictures[rows], seed, epoch, Crop())
    assert np.array_equal(some_boxes, boxes[rows]) and np.array_equal(some_flips, flips[rows])


@given(seeds, epochs, st.sampled_from(["seed", "epoch"]), st.data())
def test_another_epoch_or_seed_is_another_plan(seed: int, epoch: int, which: str, data: st.DataObject) -> None:
    ids = np.arange(64)
    table = np.full((64, 2), 300, dtype=np.int32)
    base = {"seed": seed, "epoch": epoch}
    other = {
        **base,
        which: data.draw((seeds if which == "seed" else epochs).filter(lambda value: value != base[which])),
    }
    first, second = (EpochPlan.training(ids, table, size=32, crop=Crop(), **each) for each in (base, other))
    assert (first.ids != second.ids).any()
    boxes = [plan.boxes[np.argsort(plan.ids)] for plan in (first, second)]
    assert (boxes[0] != boxes[1]).any(axis=1).mean() > 0.8


@given(plans(), batch_sizes, worlds)
def test_ranks_get_disjoint_parts_that_make_the_epoch(plan: EpochPlan, batch_size: int, world: int) -> None:
    count = plan.batch_count(batch_size, world)
    seen: list[Batch] = []
    for number in range(count):
        parts = [plan.batch(number, batch_size, rank, world) for rank in range(world)]
        assert sum(map(len, parts)) == batch_size * world or number == count - 1
        assert max(map(len, parts)) - min(map(len, parts)) <= 1 and max(map(len, parts)) <= batch_size
        seen += parts
    for name in ("ids", "boxes", "flips"):
        whole = np.concatenate([getattr(plan, name)[:0], *(getattr(part, name) for part in seen)])
        assert np.array_equal(whole, getattr(plan, name)), "in the plan's order, each once"
    assert all(part.size == plan.size for part in seen)
    assert all(len(plan.batch(count, batch_size, rank, world)) == 0 for rank in range(world)), "nothing behind the end"


@given(plans(), batch_sizes, worlds, st.data())
def test_the_rest_is_what_was_not_yet_delivered(
    plan: EpochPlan, batch_size: int, world: int, data: st.DataObject
) -> None:
    done = data.draw(st.integers(0, plan.batch_count(batch_size, world)))
    rest = plan.rest(done * batch_size * world)
    for number in range(rest.batch_count(batch_size, world)):
        for rank in range(world):
            assert same(rest.batch(number, batch_size, rank, world), plan.batch(done + number, batch_size, rank, world))
    samples = data.draw(st.integers(0, len(plan.ids)))
    assert plan.rest(samples).ids.tolist() == plan.ids.tolist()[samples:], "at any sample, for another batch size"


class _OrderOnly(Loader):
    """The least that a loader can be: pixels of no content, so that order, counting and resuming are all there is."""

    name = "order-only"

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        for batch in batches:
            yield torch.zeros((len(batch), *batch.size, 3), dtype=torch.uint8), ()


@pytest.fixture(scope="module")
def shards(shard_folder: Any) -> ShardSet:
    return ShardSet.open(shard_folder)


@given(st.data())
def test_a_run_resumed_anywhere_sees_each_sample_once(shards: ShardSet, data: st.DataObject) -> None:
    """Stopped after any batch, by any number of ranks, and gone on with by another number and another batch size."""
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, len(shards) - 1), min_size=1))), dtype=np.int64)
    common = {
        "image_size": 1,
        "seed": data.draw(st.integers(0, 2**63 - 1)),
        "crop": data.draw(st.sampled_from([Crop(), None])),
        "shuffle": data.draw(st.sampled_from(["full", "shards"])),
    }
    epoch, state, seen = data.draw(st.integers(0, 1000)), {"epoch": 0, "samples": 0}, []
    order: list[int] = []
    while len(seen) < len(ids):
        batch_size, world = data.draw(batch_sizes), data.draw(worlds)
        states = []
        stop = data.draw(st.integers(1, 4)) if len(seen) < len(ids) // 2 else None
        parts = []
        for rank in range(world):
            settings = LoaderSettings(batch_size=batch_size, rank=rank, world_size=world, **common)
            loader = _OrderOnly(shards, ids, settings)
            loader.set_epoch(epoch)
            if seen:
                loader.load_state_dict(state)
            order = loader.plan().ids.tolist()
            got = []
            for number, (images, labels, batch_ids) in enumerate(loader, start=1):
                assert images.shape == (len(batch_ids), 1, 1, 3)
                assert labels.tolist() == shards.labels()[batch_ids.numpy()].tolist()
                got.append(batch_ids.tolist())
                if number == stop:
                    break
            parts.append(got)
            states.append(loader.state_dict())
        assert len({len(got) for got in parts}) == 1, "all ranks do the same number of steps"
        seen += [sample for step in zip(*parts, strict=True) for part in step for sample in part]
        state = states[0]
        assert all(each == {"epoch": epoch, "samples": len(seen)} for each in states)
    assert seen == order and sorted(seen) == ids.tolist()


@given(batch_sizes, worlds, st.integers(1, 30), st.data())
def test_a_limit_counts_from_the_epochs_start(
    shards: ShardSet, batch_size: int, world: int, limit: int, data: st.DataObject
) -> None:
    settings = LoaderSettings(batch_size, 1, Crop(), world_size=world, limit_batches=limit)
    loader = _OrderOnly(shards, np.arange(len(shards)), settings)
    whole = -(-len(shards) // (batch_size * world))
    assert len(loader) == min(limit, whole)
    done = data.draw(st.integers(0, len(loader)))
    loader.load_state_dict({"epoch": 0, "samples": min(done * batch_size * world, len(shards))})
    assert len(list(loader)) == len(loader) - done
    assert len(list(loader)) == len(loader), "the epoch after is limited from its own start"
