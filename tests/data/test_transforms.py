"""Transforms of a loader's batches, as values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasttrain import (
    ColorJitter,
    CutMix,
    Loader,
    Mixup,
    Normalize,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugment,
)
from fasttrain.data.transforms import Transforms
from fasttrain.errors import UserError
from tests.support.host_waits import GPU, fake_gpu

CROP = RandomResizedCrop(48, scale=(0.35, 1))


def one_pass(data, transforms, **options) -> tuple[torch.Tensor, torch.Tensor]:
    with Loader(data, batch_size=16, crop=CROP, seed=5, workers=1, transforms=transforms, **options) as loader:
        images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("transform", [RandAugment(2, 9), TrivialAugment(), ColorJitter(0.4), RandomErasing(1.0)])
def test_pixels_change_the_same_way_each_time(transform, shard_folder) -> None:
    plain, _ = one_pass(shard_folder, [])
    images, labels = one_pass(shard_folder, [transform])
    again, _ = one_pass(shard_folder, [transform], loader="native")
    assert images.dtype == torch.uint8 and images.shape == plain.shape and labels.dtype == torch.int64
    assert not torch.equal(images, plain) and torch.equal(images, again)


def test_another_batch_size_augments_alike(shard_folder) -> None:
    by_id = []
    for size in (16, 7):
        options = {"batch_size": size, "crop": CROP, "seed": 5, "workers": 1, "with_ids": True}
        with Loader(shard_folder, **options, transforms=[RandAugment(2, 9), RandomErasing(0.5)]) as loader:
            by_id.append(
                {int(each): picture for images, _, ids in loader for each, picture in zip(ids, images, strict=True)}
            )
    assert by_id[0].keys() == by_id[1].keys()
    assert all(torch.equal(by_id[0][each], by_id[1][each]) for each in by_id[0])


def test_mixed_labels_are_shares_of_the_classes(shard_folder) -> None:
    images, targets = one_pass(shard_folder, [Normalize(), Mixup(1.0)])
    assert images.dtype == targets.dtype == torch.float32 and images.shape[1] == 3
    assert torch.allclose(targets.sum(1), torch.ones(len(targets))) and (targets.max(1).values < 0.999).any()


def test_own_functions_come_last(shard_folder) -> None:
    plain, _ = one_pass(shard_folder, [Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    doubled, _ = one_pass(shard_folder, [Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), lambda images: images * 2])
    assert torch.equal(doubled, plain * 2) and plain.min() >= -1


def test_float_output_is_normalize(shard_folder) -> None:
    jitter = ColorJitter(0.4)
    asked, _ = one_pass(shard_folder, [jitter, torch.relu], output="float")
    given, _ = one_pass(shard_folder, [jitter, Normalize(), torch.relu])
    assert torch.equal(asked, given)


def test_views_are_augmented_apart(shard_folder) -> None:
    whole = RandomResizedCrop(48, scale=(1, 1), ratio=(1, 1))
    options = {"batch_size": 16, "hflip": 0, "workers": 1}
    with Loader(shard_folder, views=[whole, whole], transforms=[ColorJitter(0.8)], **options) as loader:
        (one, two), _ = next(iter(loader))
    assert one.shape == two.shape and not torch.equal(one, two)


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        (
            [Normalize(), ColorJitter(0.4)],
            "transforms are applied in this order: RandAugment or TrivialAugment, ColorJitter",
        ),
        ([Mixup(0.2)], "Mixup and CutMix need normalized images: add Normalize"),
        (["flip"], "transforms: 'flip' is neither a transform of fasttrain nor a function of a batch"),
        ([ColorJitter], "is neither a transform of fasttrain nor a function of a batch"),
    ],
)
def test_mistakes(transforms, said, shard_folder) -> None:
    with pytest.raises(UserError, match=said):
        Loader(shard_folder, crop=CROP, transforms=transforms)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ColorJitter(1.5),
        lambda: RandomErasing(0),
        lambda: CutMix(-1),
        lambda: Normalize(std=(1, 1, 0)),
        lambda: RandAugment(9, 9),
    ],
)
def test_values_have_ranges(make) -> None:
    with pytest.raises(UserError):
        make()


def test_mixing_does_not_wait_for_the_device() -> None:
    ids = np.arange(4)
    with fake_gpu() as waits:
        with GPU:
            made = Transforms([Normalize(), Mixup()], ids, seed=0, classes=3, views=1, device=GPU)
        images, labels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8, device=GPU), torch.tensor([0, 1, 2, 0])
        waits.clear()
        (mixed,), targets = made([images], labels, ids, 0)
    assert mixed.is_cuda and targets.is_cuda and targets.shape == (4, 3) and not waits
