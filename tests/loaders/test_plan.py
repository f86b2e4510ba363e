"""The augmentation plan: pure, pinned, and torchvision's distribution."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from fasttrain.loaders.philox import random_words
from fasttrain.loaders.plan import (
    SHARD_WINDOW,
    CenterShare,
    Crop,
    EpochPlan,
    FullPicture,
    centre_boxes,
    epoch_order,
    random_flips,
    random_resized_crops,
)

SIZES = np.tile(np.array([[512, 384], [341, 512], [100, 900], [7, 5]], dtype=np.int32), (500, 1))
IDS = np.arange(len(SIZES), dtype=np.int64)
GOLDEN_WORDS = [[18185515313008464715, 7366093020013295891, 3471466659661956360, 4086101707980077086]]
GOLDEN_BOXES = [[49, 122, 272, 258], [32, 34, 291, 303], [0, 383, 100, 133], [0, 0, 6, 5]]
GOLDEN_DIGEST = "fafa32b5e6ef5ab1"
GOLDEN_VFLIP_DIGEST = "0d7287ee442f90c3"
GOLDEN_SHARD_ORDER = [1123, 1130, 1865, 775]
GOLDEN_SHARD_DIGEST = "3ab61c1465bea7a6"


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()[:16]


def test_golden_words_order_boxes_and_flips():
    """A change here changes every run that anyone resumes: it needs a new schema, not a new constant."""
    assert random_words(1, 2, 3, 1, 4).tolist() == GOLDEN_WORDS
    boxes, flips = random_resized_crops(IDS, SIZES, seed=42, epoch=3, crop=Crop())
    assert boxes[:4].tolist() == GOLDEN_BOXES
    assert digest(epoch_order(IDS, 42, 3), boxes, flips) == GOLDEN_DIGEST


def test_golden_vertical_flips():
    flips = random_flips(IDS, 42, 3, 0.5, vertical=True)
    assert digest(flips) == GOLDEN_VFLIP_DIGEST and abs(flips.mean() - 0.5) < 0.05


@pytest.mark.parametrize("crop", [Crop(vflip=0.3), CenterShare(flip=0.5, vflip=0.3), FullPicture(flip=0.5, vflip=0.3)])
def test_flips_are_alike_under_every_crop(crop):
    plan = EpochPlan.in_order(IDS, SIZES, seed=42, epoch=3, size=32, crop=crop)
    boxes, flips = random_resized_crops(IDS, SIZES, seed=42, epoch=3, crop=Crop())
    assert np.array_equal(plan.flips, flips) and np.array_equal(
        plan.upside_down, random_flips(IDS, 42, 3, 0.3, vertical=True)
    )
    assert not isinstance(crop, Crop) or np.array_equal(plan.boxes, boxes)
    apart = np.corrcoef(plan.flips, plan.upside_down)[0, 1]
    assert abs(apart) < 0.06 and abs(plan.upside_down.mean() - 0.3) < 0.04
    for part in (plan.take(slice(5, 9)), plan.rest(5).batch(0, 4)):
        assert np.array_equal(part.upside_down, plan.upside_down[5:9])


def test_no_vertical_flip_by_default():
    plan = EpochPlan.training(IDS, SIZES, seed=42, epoch=3, size=32, crop=Crop())
    assert plan.vflips is None and not plan.upside_down.any()


def test_golden_order_by_shards():
    order = epoch_order(IDS, 42, 3, IDS // 20)
    assert order[:4].tolist() == GOLDEN_SHARD_ORDER
    assert digest(order) == GOLDEN_SHARD_DIGEST


def test_a_sample_does_not_depend_on_its_company():
    boxes, flips = random_resized_crops(IDS, SIZES, seed=1, epoch=0, crop=Crop())
    some = np.array([1999, 3, 77, 1024], dtype=np.int64)
    few_boxes, few_flips = random_resized_crops(some, SIZES[some], seed=1, epoch=0, crop=Crop())
    assert np.array_equal(few_boxes, boxes[some])
    assert np.array_equal(few_flips, flips[some])


def test_ids_far_apart_cross_chunks():
    far = np.array([5, 70_000, 65_541, 1_000_000], dtype=np.int64)
    sizes = np.full((4, 2), 300, dtype=np.int32)
    together, _ = random_resized_crops(far, sizes, seed=9, epoch=1, crop=Crop())
    for position, sample in enumerate(far):
        alone, _ = random_resized_crops(np.array([sample]), sizes[:1], seed=9, epoch=1, crop=Crop())
        assert np.array_equal(alone[0], together[position])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}])
def test_seed_and_epoch_change_order_and_crops(other):
    base = {"seed": 1, "epoch": 0}
    changed = {**base, **other}
    assert not np.array_equal(epoch_order(IDS, **base), epoch_order(IDS, **changed))
    first, _ = random_resized_crops(IDS, SIZES, **base, crop=Crop())
    second, _ = random_resized_crops(IDS, SIZES, **changed, crop=Crop())
    assert (first != second).any(axis=1).mean() > 0.8


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**40),
    sizes=st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=40),
    low=st.floats(0.01, 1),
)
def test_boxes_lie_inside_the_photograph(seed, epoch, sizes, low):
    array = np.array(sizes, dtype=np.int32)
    boxes, _ = random_resized_crops(np.arange(len(array)), array, seed, epoch, Crop(scale=(low, 1.0)))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= array).all()


@pytest.mark.parametrize("shape", [(512, 384), (120, 900)])
@pytest.mark.slow
def test_distribution_is_torchvisions(shape):
    """Means and spreads of 20,000 boxes against RandomResizedCrop.get_params, to five standard errors."""
    torch.manual_seed(0)
    picture = torch.empty(3, *shape)
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(20_000)],
        dtype=float,
    )
    sizes = np.tile(np.array([shape], dtype=np.int32), (20_000, 1))
    ours, flips = random_resized_crops(np.arange(20_000), sizes, seed=5, epoch=0, crop=Crop())
    error = np.sqrt(theirs.var(axis=0) / 20_000 * 2)
    assert (np.abs(theirs.mean(axis=0) - ours.mean(axis=0)) < 5 * error + 1e-9).all()
    assert np.allclose(theirs.std(axis=0), ours.std(axis=0), rtol=0.05)
    assert abs(flips.mean() - 0.5) < 0.02


def test_too_wide_a_photograph_gets_torchvisions_fallback():
    sizes = np.array([[10, 1000], [1000, 10]], dtype=np.int32)
    boxes, _ = random_resized_crops(np.arange(2), sizes, 0, 0, Crop(scale=(0.9, 1.0)))
    assert boxes.tolist() == [[0, (1000 - 13) // 2, 10, 13], [(1000 - 13) // 2, 0, 13, 10]]


@pytest.mark.parametrize(
    ("size", "crop", "box"),
    [
        ((3, 3), Crop(scale=(0.1, 0.12)), (1, 1)),  # one pixel is a crop
        ((2, 2), Crop(scale=(0.01, 0.02)), (2, 2)),  # none is not: the whole photograph
        ((1, 5), Crop(scale=(0.9, 1.0)), (1, 1)),
        ((5, 1), Crop(scale=(0.9, 1.0)), (1, 1)),
        ((5, 1), Crop(scale=(0.9, 1.0), ratio=(3.0, 4.0)), (1, 1)),
    ],
)
def test_photographs_of_a_few_pixels(size, crop, box):
    boxes, _ = random_resized_crops(np.arange(50), np.tile(np.array([size], np.int32), (50, 1)), 0, 0, crop)
    assert {tuple(each) for each in boxes[:, 2:].tolist()} == {box}
    assert (boxes[:, :2] + boxes[:, 2:] <= size).all() and (boxes[:, :2] >= 0).all()
    if size[0] != size[1]:
        assert boxes[0, :2].tolist() == [(size[0] - box[0]) // 2, (size[1] - box[1]) // 2], "in the middle"


def test_words_are_drawn_a_chunk_at_a_time(monkeypatch):
    """Ids in any order and far apart: memory is that of 65,536 samples' words."""
    counts = []

    def counted(*arguments):
        counts.append(arguments[3])
        return random_words(*arguments)

    monkeypatch.setattr("fasttrain.loaders.plan.random_words", counted)
    ids = np.array([200_000, 0, 131_073, 65_535, 65_536, 70_000, 300_000, 1])
    boxes, _ = random_resized_crops(ids, SIZES[: len(ids)] * 0 + 300, 0, 0, Crop())
    assert sum(counts) <= 5 * 65_536 and max(counts) <= 65_536
    ordered = np.sort(ids)
    again, _ = random_resized_crops(ordered, SIZES[: len(ids)] * 0 + 300, 0, 0, Crop())
    assert np.array_equal(boxes[np.argsort(ids)], again)


def test_order_is_a_permutation_of_the_ids_given():
    some = np.array([4, 900, 17, 3], dtype=np.int64)
    assert sorted(epoch_order(some, 7, 0)) == sorted(some)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_epoch_without_overlap_or_loss(world_size):
    plan = EpochPlan.training(IDS[:103], SIZES, seed=0, epoch=0, size=32, crop=Crop())
    seen = []
    for number in range(plan.batch_count(10, world_size)):
        for rank in range(world_size):
            seen.extend(plan.batch(number, 10, rank, world_size).ids)
    assert seen == list(plan.ids)


def test_one_rank_is_the_default():
    plan = EpochPlan.training(IDS[:103], SIZES, seed=0, epoch=0, size=32, crop=Crop())
    assert plan.batch_count(10) == 11
    assert np.array_equal(plan.batch(1, 10).ids, plan.ids[10:20])


def test_plans_are_made_of_orders_and_boxes():
    ids, shards = IDS[:200], IDS[:200] // 10
    plan = EpochPlan.training(ids, SIZES, seed=3, epoch=1, size=32, crop=Crop(), shards=shards)
    assert np.array_equal(plan.ids, epoch_order(ids, 3, 1, shards))
    still = EpochPlan.evaluation(ids, SIZES, size=24)
    assert still.size == (24, 24) and np.array_equal(still.ids, ids) and not still.flips.any()
    for each in (plan, still):
        assert (each.ids.dtype, each.boxes.dtype, each.flips.dtype) == (np.int64, np.int32, np.bool_)


def test_rest_goes_on_where_it_stopped():
    plan = EpochPlan.training(IDS[:100], SIZES, seed=0, epoch=0, size=32, crop=Crop())
    rest = plan.rest(32)
    assert np.array_equal(rest.batch(0, 16).ids, plan.batch(2, 16).ids)
    assert np.array_equal(rest.batch(0, 16).boxes, plan.batch(2, 16).boxes)


def test_centre_boxes_are_resize_256_centre_crop_224():
    boxes = centre_boxes(np.array([[512, 512], [512, 384], [1, 1]], dtype=np.int32))
    assert boxes.tolist() == [[32, 32, 448, 448], [88, 24, 336, 336], [0, 0, 1, 1]]


def test_shuffle_shards_mixes_a_window_of_shards_at_a_time():
    per_shard, shards = 50, 3 * SHARD_WINDOW
    ids = np.arange(per_shard * shards)
    order = epoch_order(ids, 1, 0, ids // per_shard)
    assert sorted(order.tolist()) == ids.tolist()
    windows = (order // per_shard).reshape(3, -1)
    groups = [set(window.tolist()) for window in windows]
    assert [len(group) for group in groups] == [SHARD_WINDOW] * 3
    assert groups[0] != set(range(SHARD_WINDOW)), "the shards themselves are shuffled"
    assert all(len(set(window[:50].tolist())) > SHARD_WINDOW // 2 for window in windows), "and mixed within a window"
    assert not np.array_equal(order, epoch_order(ids, 1, 1, ids // per_shard))
    some = ids[::2]
    assert np.array_equal(epoch_order(some, 1, 0, some // per_shard), order[order % 2 == 0])
