"""Each batched operation against torchvision's functional of the same name, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fasttrain.augment import pixels
from fasttrain.augment.color import color_jitter, draw_factors
from fasttrain.augment.rand_augment import KINDS, parameters, rand_augment

FILL = torch.tensor([124.0, 116.0, 104.0])
SHIFT = FILL.view(3, 1, 1)
GEOMETRIC = [kind for kind in KINDS if kind.startswith(("shear", "translate", "rotate"))]


def planar(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2)


def grey_levels(ours: torch.Tensor, theirs: list[torch.Tensor]) -> torch.Tensor:
    """Absolute differences, uint8 planes of each sample."""
    assert ours.dtype == torch.uint8 and ours.is_contiguous()
    return (planar(ours).int() - torch.stack(theirs).int()).abs()


@pytest.mark.parametrize(
    ("column", "function"), enumerate((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation))
)
def test_each_factor_is_torchvisions_to_two_grey_levels(column, function, pictures):
    factors = torch.ones(len(pictures), 3)
    factors[:, column] = torch.linspace(0.05, 1.95, len(pictures))
    theirs = [function(image, float(f)) for image, f in zip(planar(pictures), factors[:, column], strict=True)]
    difference = grey_levels(color_jitter(pictures, factors), theirs)
    # torchvision rounds the grey value down, then the result.
    assert difference.max() <= 2 and difference.float().mean() < 1
    assert (planar(pictures).int() - torch.stack(theirs).int()).abs().float().mean() > 5, "the operation did nothing"


def test_factors_together_are_torchvisions_in_any_order_where_nothing_clamps(pictures):
    muted = (pictures.float() / 4 + 90).to(torch.uint8)
    factors = torch.tensor([[1.2, 0.8, 1.4]]).expand(len(muted), 3)
    there = [F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(x, 1.2), 0.8), 1.4) for x in planar(muted)]
    back = [F.adjust_brightness(F.adjust_contrast(F.adjust_saturation(x, 1.4), 0.8), 1.2) for x in planar(muted)]
    for theirs in (there, back):  # torchvision rounds down three times
        assert grey_levels(color_jitter(muted, factors), theirs).max() <= 3


def test_factors_fill_color_jitters_range():
    numbers = np.random.default_rng(0).random((20_000, 3), dtype=np.float32)
    for strength, low in ((0.4, 0.6), (1.0, 0.0)):
        factors = draw_factors(numbers, strength)
        assert factors.dtype == np.float32
        assert low <= factors.min() < low + 0.01 and 1 + strength - 0.01 < factors.max() <= 1 + strength
        assert factors.mean() == pytest.approx(1, abs=0.01)


def test_sharpness_is_torchvisions_to_a_grey_level(pictures):
    factors = torch.linspace(0, 1.9, len(pictures))
    theirs = [F.adjust_sharpness(image, float(f)) for image, f in zip(planar(pictures), factors, strict=True)]
    assert grey_levels(pixels.sharpness(pictures, factors), theirs).max() <= 1


def test_posterize_and_solarize_are_torchvisions(pictures):
    bits = torch.arange(len(pictures)) % 8 + 1
    theirs = [F.posterize(image, int(n)) for image, n in zip(planar(pictures), bits, strict=True)]
    assert grey_levels(pixels.posterize(pictures, 256 - 2 ** (8 - bits)), theirs).max() == 0
    thresholds = torch.linspace(0, 255, len(pictures))
    theirs = [F.solarize(image, float(t)) for image, t in zip(planar(pictures), thresholds, strict=True)]
    assert grey_levels(pixels.solarize(pictures, thresholds), theirs).max() == 0


def test_autocontrast_and_equalize_are_torchvisions(pictures):
    pale = (pictures.float() / 3 + 70).to(torch.uint8)
    pale[0, ..., 1] = 99  # one value only: left alone
    assert grey_levels(pixels.autocontrast(pale), [F.autocontrast(x) for x in planar(pale)]).max() <= 1
    assert (pixels.autocontrast(pale)[0, ..., 1] == 99).all()
    assert grey_levels(pixels.equalize(pale), [F.equalize(x) for x in planar(pale)]).max() == 0


@pytest.mark.parametrize("kind", GEOMETRIC)
@pytest.mark.parametrize("sign", [0, 1])
def test_geometry_is_torchvisions(kind, sign, pictures):
    """Bilinear, to one grey level. torchvision's `fill` weighs the border twice, so the mean is shifted to zero."""
    height, width = pictures.shape[1:3]
    signed = 1 if sign else -1
    degrees = float(np.degrees(np.arctan(signed * 0.3 * 0.7)))
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    changes = {
        "shear_x": {"shear": [degrees, 0.0], "center": [0, 0]},
        "shear_y": {"shear": [0.0, degrees], "center": [0, 0]},
        "translate_x": {"translate": [signed * int(150 / 331 * width * 0.7), 0]},
        "translate_y": {"translate": [0, signed * int(150 / 331 * height * 0.7)]},
    }
    function = F.rotate if kind == "rotate" else F.affine
    settings = {"angle": signed * 21.0} if kind == "rotate" else {**settings, **changes[kind]}
    theirs = [
        (function(x - SHIFT, **settings, interpolation=InterpolationMode.BILINEAR) + SHIFT).round().to(torch.uint8)
        for x in planar(pictures)
    ]
    matrix = torch.from_numpy(parameters(7, height, width)[KINDS.index(kind), sign]).view(1, 2, 3)
    difference = grey_levels(pixels.affine(pictures, matrix.expand(len(pictures), 2, 3), FILL), theirs)
    assert difference.max() <= 1 and difference.float().mean() < 0.01


def numbers_for(kinds: list[int], signs: list[int]) -> np.ndarray:
    """Numbers of one layer that draw these kinds and signs."""
    return np.stack([(np.array(kinds) + 0.5) / len(KINDS), np.array(signs) * 0.9], axis=1).astype(np.float32)


def test_rand_augment_applies_to_each_sample_the_kind_that_it_drew(pictures):
    """All 14 kinds in one batch, against torchvision's RandAugment's own dispatch, at magnitude 6."""
    from torchvision.transforms.v2 import RandAugment

    reference = RandAugment(interpolation=InterpolationMode.BILINEAR)
    height, width = pictures.shape[1:3]
    magnitudes = dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), 0.54)
    magnitudes |= {"ShearX": 0.18, "ShearY": 0.18, "Rotate": 18.0, "Posterize": 6, "Solarize": 0.4}
    magnitudes |= {"TranslateX": 0.6 * 150 / 331 * width, "TranslateY": 0.6 * 150 / 331 * height}
    signed = set(magnitudes) - {"Posterize", "Solarize"}
    theirs = {each.lower(): each for each in RandAugment._AUGMENTATION_SPACE}
    order = np.random.default_rng(0).permutation(len(KINDS))
    batch = pictures[: len(KINDS)]
    for sign in (0, 1):
        made = rand_augment(batch, numbers_for(list(order), [sign] * len(KINDS)), 1, 6, FILL)
        for row, kind in enumerate(order):
            name = theirs[KINDS[kind].replace("_", "")]
            magnitude = magnitudes.get(name, 0.0) * (-1 if name in signed and not sign else 1)
            shift = SHIFT if name.startswith(("Shear", "Translate", "Rotate")) else 0
            expected = shift + reference._apply_image_or_video_transform(
                planar(batch)[row] - shift, name, magnitude, reference.interpolation, reference._fill
            )
            difference = (planar(made)[row] - expected.float()).abs()
            assert difference.max() <= 2, (name, sign)
            assert (name == "Identity") == torch.equal(made[row], batch[row]), name


def test_rand_augments_layers_follow_each_other(pictures):
    first, second = KINDS.index("solarize"), KINDS.index("posterize")
    one = rand_augment(pictures, numbers_for([first] * 24, [0] * 24), 1, 9, FILL)
    both = np.concatenate([numbers_for([first] * 24, [0] * 24), numbers_for([second] * 24, [0] * 24)], axis=1)
    expected = rand_augment(one, numbers_for([second] * 24, [0] * 24), 1, 9, FILL)
    before = pictures.clone()
    assert torch.equal(rand_augment(pictures, both, 2, 9, FILL), expected)
    assert torch.equal(pictures, before), "the loader's buffer is left alone"
