"""The draws: from (seed, epoch, sample id) alone, with the distributions that the papers ask for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import CrossEntropyLoss

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.erasing import draw_boxes
from fasttrain.augment.mix import PlannedMixup
from fasttrain.augment.numbers import NUMBERS, EpochNumbers, epoch_numbers
from fasttrain.augment.rand_augment import KINDS
from fasttrain.config.load import resolve
from fasttrain.config.values import RandAugment
from fasttrain.errors import UserError

MEAN = (0.485, 0.456, 0.406)
ALL_ON = {"color_jitter": 0.4, "rand_augment": RandAugment(2, 9), "random_erasing": 0.5}
CPU = torch.device("cpu")
PINNED = [[0.7748837471008301, 0.7250059843063354], [0.21507734060287476, 0.07382392883300781]]


def test_numbers_are_fixed_for_good():
    """A change here changes every run's augmentation: what was drawn in the first release."""
    assert epoch_numbers(42, 3, 2, first=7)[:, :2].tolist() == PINNED


def test_numbers_are_a_function_of_seed_epoch_and_id():
    whole = epoch_numbers(42, 3, 70_000)  # more than one chunk
    assert whole.dtype == np.float32 and whole.shape == (70_000, NUMBERS)
    assert np.array_equal(whole[65_530:65_545], epoch_numbers(42, 3, 15, first=65_530))
    assert whole.min() >= 0 and whole.max() < 1 and whole.mean() == pytest.approx(0.5, abs=2e-3)
    assert not np.isin(whole[:50], epoch_numbers(42, 4, 50)).any()
    assert not np.isin(whole[:50], epoch_numbers(43, 3, 50)).any()
    some = EpochNumbers(np.arange(100, 5_000), 42)
    ids = np.array([4_999, 100, 2_500])
    assert np.array_equal(some.of(ids, 3), whole[ids])
    assert np.array_equal(some.of(ids, 4), epoch_numbers(42, 4, 5_000)[ids]), "a new epoch, a new table"


def test_the_largest_word_stays_below_one(monkeypatch):
    monkeypatch.setattr("fasttrain.augment.numbers.random_words", lambda *_: np.full((1, 16), 2**64 - 1, np.uint64))
    assert epoch_numbers(0, 0, 1).max() < 1


def test_a_sample_is_augmented_the_same_whatever_its_batch(pictures):
    ids = np.arange(50, 74)
    augment = BatchAugment(ids, 1, MEAN, CPU, **ALL_ON)
    whole = augment(pictures, ids, 2)
    assert whole.dtype == torch.uint8 and whole.shape == pictures.shape
    order = np.random.default_rng(0).permutation(24)
    assert torch.equal(augment(pictures[order], ids[order], 2), whole[order])
    for start, stop in ((0, 1), (1, 6), (6, 24)):
        fresh = BatchAugment(ids, 1, MEAN, CPU, **ALL_ON)
        assert torch.equal(fresh(pictures[start:stop], ids[start:stop], 2), whole[start:stop])
    other = augment(pictures, ids, 3)
    assert ((other != whole).flatten(1).any(dim=1)).float().mean() > 0.9, "epochs differ"


def test_the_host_never_waits_for_the_device():
    """The meta device has no values, so whatever reads one back (`item`, boolean masks) raises there."""
    meta, ids = torch.device("meta"), np.arange(64)
    images = torch.empty(64, 32, 32, 3, dtype=torch.uint8, device=meta)
    made = BatchAugment(ids, 1, MEAN, meta, **ALL_ON)(images, ids, 0)
    assert made.shape == images.shape and made.dtype == torch.uint8
    labels = torch.empty(64, dtype=torch.int64, device=meta)
    for alphas in ((1.0, 0.0), (0.0, 1.0)):
        _, targets = PlannedMixup(*alphas, classes=5, seed=0)(made.permute(0, 3, 1, 2).float(), labels, ids, 0)
        assert targets.shape == (64, 5)


def test_an_operation_keeps_its_draws_when_another_is_switched_on(pictures):
    ids = np.arange(24)
    erased = BatchAugment(ids, 1, MEAN, CPU, random_erasing=1.0)(pictures, ids, 0)
    both = BatchAugment(ids, 1, MEAN, CPU, random_erasing=1.0, color_jitter=0.4)(pictures, ids, 0)
    fill = torch.tensor(MEAN).mul(255).round().to(torch.uint8)
    assert torch.equal((erased == fill).all(dim=-1).float().mean(dim=(1, 2)) > 0, torch.ones(24, dtype=torch.bool))
    inside = (erased == fill).all(dim=-1) & (pictures != fill).any(dim=-1)
    assert (both[inside] == fill).all()


def test_erasing_has_its_probability_areas_ratios_and_places():
    height, width = 200, 160
    boxes = draw_boxes(epoch_numbers(0, 0, 40_000)[:, :5], 0.25, height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(axis=1) / (height * width)
    erased = area > 0
    assert erased.mean() == pytest.approx(0.25, abs=0.01)
    assert area[erased].min() > 0.018 and area[erased].max() < 0.345
    assert area[erased].mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.004)
    ratio = sides[erased, 0] / sides[erased, 1]
    assert 0.28 < ratio.min() < 0.35 and 2.9 < ratio.max() < 3.6
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (height, width)).all()
    for border, side in ((0, 0), (1, 0), (2, height), (3, width)):
        assert (boxes[erased, border] == side).any(), "every border is reached"


def test_erased_boxes_hold_the_mean_pixel_and_nothing_else_changes(pictures):
    ids = np.arange(24)
    made = BatchAugment(ids, 5, MEAN, CPU, random_erasing=0.5)(pictures, ids, 1)
    boxes = draw_boxes(EpochNumbers(ids, 5).of(ids, 1)[:, 3:8], 0.5, *pictures.shape[1:3])
    for image, before, (top, left, bottom, right) in zip(made, pictures, boxes, strict=True):
        expected = before.clone()
        expected[top:bottom, left:right] = torch.tensor([124, 116, 104], dtype=torch.uint8)
        assert torch.equal(image, expected)
    assert 0 < (boxes[:, 2] > boxes[:, 0]).sum() < 24


def test_rand_augment_draws_all_kinds_equally():
    kinds = (epoch_numbers(0, 0, 28_000)[:, 8] * len(KINDS)).astype(int)
    assert np.abs(np.bincount(kinds, minlength=14) - 2_000).max() < 200


@pytest.mark.parametrize(("text", "expected"), [("n2-m9", (2, 9)), ("rand-m10-n1", (1, 10)), ("n4-m0", (4, 0))])
def test_rand_augments_setting(text, expected):
    assert RandAugment.parse(text) == RandAugment(*expected)
    config = resolve({"rand_augment": text})
    assert config.rand_augment == RandAugment(*expected) and config.plain()["rand_augment"] == text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rand_augment": "n9-m12"}, "rand_augment = 'n9-m12' is out of range; the nearest valid value is n4-m10"),
        ({"rand_augment": "9"}, "rand_augment = '9' is invalid; write n2-m9"),
        ({"color_jitter": 1.5}, "color_jitter = 1.5 is out of range: the nearest valid value is 1"),
        ({"mixup": -1}, "mixup = -1 is out of range: the nearest valid value is 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(UserError) as caught:
        resolve(settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def mixed(mix: PlannedMixup, first: int = 0, epoch: int = 0, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.arange(float(count)).view(count, 1, 1, 1).expand(count, 3, 32, 40).clone()
    return mix(inputs, torch.arange(count), np.arange(first, first + count), epoch)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_targets_are_the_shares_of_the_mixed_pixels(alphas, count):
    """Sample i is filled with i, so its mean and its target's must agree; the middle of an odd batch is unmixed."""
    for first in range(5):
        inputs, targets = mixed(PlannedMixup(*alphas, classes=8, seed=0), first, count=count)
        assert torch.allclose(targets.sum(dim=1), torch.ones(count))
        assert torch.allclose(inputs.mean(dim=(1, 2, 3)), targets @ torch.arange(8.0), atol=1e-4)
    if count % 2:
        assert targets[-1, count - 1] == 1


def test_mixing_is_drawn_from_seed_epoch_and_first_id_and_leaves_numpy_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    mix = PlannedMixup(0.8, 1.0, classes=6, seed=3)
    inputs, targets = mixed(mix, 10, 2)
    np.random.rand()
    again = mixed(PlannedMixup(0.8, 1.0, classes=6, seed=3), 10, 2)
    assert torch.equal(inputs, again[0]) and torch.equal(targets, again[1])
    np.random.seed(5)
    mixed(mix, 10, 2)
    assert np.random.get_state()[1].tolist() == before and np.random.get_state()[2] == 624
    shares = {round(float(mixed(mix, first, epoch)[1].max()), 6) for first in range(10) for epoch in range(2)}
    shares |= {round(float(mixed(PlannedMixup(0.8, 1.0, classes=6, seed=4), 10, 2)[1].max()), 6)}
    assert len(shares) > 15


def test_smoothing_in_the_loss_is_timms_smoothing_in_the_targets():
    from timm.data.mixup import mixup_target
    from timm.loss import SoftTargetCrossEntropy

    logits, labels = torch.randn(6, 9), torch.arange(6)
    ours = CrossEntropyLoss(label_smoothing=0.1)(logits, mixup_target(labels, 9, lam=0.3))
    theirs = SoftTargetCrossEntropy()(logits, mixup_target(labels, 9, lam=0.3, smoothing=0.1))
    assert ours == pytest.approx(float(theirs), rel=1e-5)
