"""TrivialAugment: every kind and magnitude against torchvision's `TrivialAugmentWide`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, TrivialAugmentWide

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.rand_augment import KINDS
from fasttrain.augment.trivial_augment import MAGNITUDES, trivial_augment

SIDES = 60, 40
MEAN = (0.485, 0.456, 0.406)
FILL = torch.tensor([124.0, 116.0, 104.0])


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """uint8 [H, W, 3], smooth and without plain areas."""
    y, x = (torch.linspace(0, 1, side) for side in SIDES)
    planes = [torch.outer((3 * y).cos(), (5 * x).sin()), torch.outer(y, x), torch.outer(1 - y, (2 * x).cos())]
    return ((torch.stack(planes, dim=-1) + 1) * 120).round().to(torch.uint8)


def numbers(kinds: list[int], magnitudes: list[int], sign: int) -> np.ndarray:
    """Numbers that draw these kinds and magnitudes, and this sign."""
    columns = ((np.array(kinds) + 0.5) / len(KINDS), (np.array(magnitudes) + 0.5) / MAGNITUDES)
    return np.stack([*columns, np.full(len(kinds), sign * 0.9)], axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_torchvisions_at_each_magnitude(kind, picture):
    reference = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    space = {name.lower(): (name, *each) for name, each in reference._AUGMENTATION_SPACE.items()}
    name, magnitudes_of, signed = space[kind.replace("_", "")]
    magnitudes = magnitudes_of(MAGNITUDES, *SIDES)
    planar = picture.permute(2, 0, 1).contiguous()
    shift = FILL.view(3, 1, 1) if name.startswith(("Shear", "Translate", "Rotate")) else None
    for sign in (0, 1) if signed else (0,):
        batch = picture.expand(MAGNITUDES, *picture.shape)
        made = trivial_augment(batch, numbers([KINDS.index(kind)] * MAGNITUDES, list(range(MAGNITUDES)), sign), FILL)
        for row in range(MAGNITUDES):
            value = 0.0 if magnitudes is None else round(float(magnitudes[row]), 4) * (-1 if signed and not sign else 1)
            given = planar if shift is None else planar - shift
            theirs = reference._apply_image_or_video_transform(
                given, name, value, reference.interpolation, reference._fill
            )
            theirs = theirs.float() if shift is None else theirs + shift
            difference = (made[row].permute(2, 0, 1).float() - theirs).abs()
            # An edge or a threshold that falls on a pixel may be rounded to either side of it. torchvision rounds
            # blends down.
            near = difference[difference <= 2]
            assert len(near) >= 0.97 * difference.numel() and near.mean() < 1.1, (sign, row, value)


def test_a_sample_has_one_operation_that_the_plan_draws():
    ids = np.arange(400, dtype=np.int64)
    images = torch.randint(0, 256, (400, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = BatchAugment(ids, 3, MEAN, torch.device("cpu"), trivial_augment=True)
    made = augment(images, ids, 0)
    some = np.array([7, 300, 21])
    assert torch.equal(augment(images[some], some, 0), made[some]), "whatever it is batched with"
    assert not torch.equal(augment(images, ids, 1), made)
    assert not torch.equal(BatchAugment(ids, 4, MEAN, torch.device("cpu"), trivial_augment=True)(images, ids, 0), made)
    unchanged = (made == images).flatten(1).all(1).float().mean()
    assert 1 / 14 - 0.04 < unchanged < 0.25, "identity, and what magnitude 0 leaves alone"
