"""`sampling` "balanced": every class comes equally often, by the plan's numbers, the same in each loader."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasttrain import Loader, RandomResizedCrop
from fasttrain.errors import UserError
from fasttrain.loaders.plan import SHARD_WINDOW, Crop, EpochPlan, balanced_order
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.reader import ShardSet

SIZES = np.tile(np.array([[512, 384], [341, 512]], dtype=np.int32), (500, 1))
IDS = np.arange(0, 200, 2, dtype=np.int64)
LABELS = np.repeat(np.array([0, 1, 3, 4]), [70, 25, 4, 1])  # class 2 has no photograph here
GOLDEN_DIGEST = "f2611f57f871cf68"


def test_golden_order_and_draws():
    """A change here changes every balanced run that anyone resumes."""
    made = b"".join(each.tobytes() for each in balanced_order(IDS, LABELS, 42, 3))
    assert hashlib.sha256(made).hexdigest()[:16] == GOLDEN_DIGEST


@given(st.lists(st.integers(0, 6), min_size=1, max_size=90), st.integers(0, 2**63), st.integers(0, 99), st.booleans())
def test_classes_come_equally_often_and_their_photographs_take_turns(labels, seed, epoch, in_windows):
    labels, ids = np.array(labels), np.arange(len(labels)) * 3
    order, draws = balanced_order(ids, labels, seed, epoch, ids // 20 if in_windows else None)
    assert len(order) == len(ids) and sorted(draws.tolist()) == list(range(len(ids)))
    classes, counts = np.unique(labels[order // 3], return_counts=True)
    assert counts.max() - counts.min() <= 1 or len(ids) < len(np.unique(labels))
    if len(ids) >= len(np.unique(labels)):
        assert classes.tolist() == np.unique(labels).tolist()
    for each in classes:
        _, times = np.unique(order[labels[order // 3] == each], return_counts=True)
        members = np.count_nonzero(labels == each)
        assert times.max() - (times.min() if len(times) == members else 0) <= 1


def test_epochs_differ_and_seeds_too():
    base = balanced_order(IDS, LABELS, 1, 0)[0]
    assert np.array_equal(base, balanced_order(IDS, LABELS, 1, 0)[0])
    for seed, epoch in ((1, 1), (2, 0)):
        assert not np.array_equal(base, balanced_order(IDS, LABELS, seed, epoch)[0])
    seen = {each for epoch in range(20) for each in balanced_order(IDS, LABELS, 1, epoch)[0].tolist()}
    assert seen == set(IDS.tolist()), "what one epoch leaves out, another has"


def test_windows_of_shards_stay_together():
    ids = np.arange(50 * 3 * SHARD_WINDOW)
    order, _ = balanced_order(ids, ids % 7 // 3, 1, 0, ids // 50)
    shards, first = np.unique(order // 50, return_index=True)
    last = len(order) - 1 - np.unique(order[::-1] // 50, return_index=True)[1]
    windows = np.argsort(first).reshape(3, SHARD_WINDOW)
    assert len(shards) == 3 * SHARD_WINDOW
    assert all(last[one].max() < first[other].min() for one, other in itertools.pairwise(windows))


def test_a_photograph_is_cropped_anew_each_time_it_comes():
    plan = EpochPlan.training(IDS, SIZES, seed=0, epoch=0, size=32, crop=Crop(), balanced=LABELS)
    alone = plan.boxes[plan.ids == 198]
    assert len(alone) == 25 and len(np.unique(alone, axis=0)) > 20
    parts = [plan.batch(number, 7, rank, 3) for number in range(plan.batch_count(7, 3)) for rank in range(3)]
    assert np.array_equal(np.concatenate([each.boxes for each in parts]), plan.boxes)
    assert np.array_equal(plan.rest(40).batch(0, 10).boxes, plan.boxes[40:50])


def unequal(shards: ShardSet) -> np.ndarray:
    """Ids of the training split: all of the first class, and one of each other class."""
    ids = shards.ids("train")
    labels = shards.labels()[ids]
    return np.sort(np.concatenate([ids[labels == 0], *(ids[labels == each][:1] for each in range(1, 6))]))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.slow
def test_every_loader_delivers_the_same_and_resumes(name, shard_folder):
    shards = ShardSet.open(shard_folder)
    if reason := loader_class(name).unavailable(shards, "cpu"):
        pytest.skip(reason)
    options = {"batch_size": 4, "crop": RandomResizedCrop(48), "workers": 1, "with_ids": True, "ids": unequal(shards)}
    with (
        Loader(shards, loader="torchvision", sampling="balanced", **options) as reference,
        Loader(shards, loader=name, sampling="balanced", **options) as loader,
    ):
        ours = list(loader)
        counts = torch.cat([labels for _, labels, _ in ours]).bincount()
        assert counts.max() - counts.min() <= 1 and counts.sum() == len(options["ids"])
        for one, other in zip(ours, reference, strict=True):
            assert torch.equal(one[2], other[2])
            assert (one[0].float() - other[0].float()).abs().mean(dim=(1, 2, 3)).max() <= 2
        loader.set_epoch(0)
        list(itertools.islice(loader, 2))
        state = loader.state_dict()
        loader.load_state_dict(state)
        for one, other in zip(loader, ours[2:], strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampling": "even"}, "sampling = 'even' is not one of none, balanced"),
        ({"sampling": "balanced", "shuffle": False}, "sampling = 'balanced' needs shuffling: give shuffle=True"),
        ({"sampling": "balanced", "split": "val"}, "sampling = 'balanced' needs shuffling: give shuffle=True"),
    ],
)
def test_what_has_no_meaning_is_refused(options, said, shard_folder):
    with pytest.raises(UserError, match=said):
        Loader(shard_folder, **options)
