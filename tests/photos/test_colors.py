"""ICC profiles: converted where they move a picture's colours by more than 4 levels, else left alone, and listed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from fasttrain.photos.normalize import decode, normalize
from tests.support.profiles import ADOBE, P3, SRGB, profile


def in_srgb(image: Image.Image, icc: bytes) -> np.ndarray:
    right = ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(right).astype(int)


def seen(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


@pytest.fixture
def muted(picture) -> Image.Image:
    """Colours that Display P3 hardly moves."""
    return Image.blend(picture, picture.convert("L").convert("RGB"), 0.8)


def test_small_moves_keep_the_coefficients(muted, encode) -> None:
    jpeg = encode(muted, icc_profile=profile(P3, 2.2))
    stored = normalize(jpeg, cut="mcu")
    assert stored.how == ("as-is", "color kept", "cut")
    assert "kept" in stored.reason and (seen(stored.jpeg) == seen(jpeg)).all()
    converted = normalize(jpeg, color="srgb")
    assert converted.how == ("re-encoded: color profile", "color converted")
    assert np.abs(seen(converted.jpeg) - in_srgb(muted, profile(P3, 2.2))).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("icc", [profile(ADOBE, 2.2), profile(SRGB, 1.0)], ids=["adobe", "linear"])
def test_large_moves_are_converted_once(picture, encode, kind, icc) -> None:
    data = encode(picture, kind, icc_profile=icc, **({"quality": 98} if kind in ("JPEG", "WEBP") else {}))
    stored = normalize(data)
    assert "color converted" in stored.how and "converted to sRGB" in stored.reason
    right = in_srgb(picture, icc)
    assert np.abs(seen(stored.jpeg) - right).mean() < 4
    raw = decode(data, max_size=100)
    assert "color converted" in raw.how
    assert np.abs(np.frombuffer(raw.pixels, np.uint8).reshape(right.shape) - right).mean() < 4
    assert np.abs(seen(normalize(data, color="keep").jpeg) - np.asarray(picture)).mean() < 4


def test_profiles_that_say_srgb_or_nothing_change_nothing(picture, encode) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, b"no profile at all", profile(SRGB, 1.0, grey=True), srgb[:200]):
        for color in ("auto", "srgb"):
            assert normalize(encode(picture, icc_profile=icc), color=color).how == ("as-is",)


def test_grey_and_transparent_pictures_are_converted(picture, encode) -> None:
    grey = picture.convert("L")
    stored = normalize(encode(grey, "PNG", icc_profile=profile(SRGB, 1.0, grey=True)))
    assert "color converted" in stored.how
    assert np.abs(seen(stored.jpeg) - in_srgb(grey, profile(SRGB, 1.0, grey=True))).mean() < 3
    layer = picture.copy()
    layer.putalpha(255)
    icc = profile(ADOBE, 2.2)
    clear = normalize(encode(layer, "PNG", icc_profile=icc))
    assert np.abs(seen(clear.jpeg) - in_srgb(picture, icc)).mean() < 4
