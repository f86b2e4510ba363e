"""A photograph for `predict`: decoded straight from its file where that gives the same pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fasttrain.data import photograph
from fasttrain.data.crops import CenterCrop, PlannedCrop, Resize
from fasttrain.data.photograph import read_photograph
from fasttrain.photos.normalize import directly_decodable

pytest.importorskip("fasttrain._native")


def make_picture(width: int, height: int) -> Image.Image:
    """Smooth, with no symmetry."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([across * 255, down * 255, 120 * across * (1 - down) + 60], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def both_ways(
    file: Path, monkeypatch: pytest.MonkeyPatch, crop: PlannedCrop | int = 48
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels decoded directly, and those of what `convert` would store."""
    directly = read_photograph(file, crop).numpy().astype(np.int64)
    with monkeypatch.context() as patch:
        patch.setattr(photograph, "native_available", lambda: False)
        return directly, read_photograph(file, crop).numpy().astype(np.int64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(160, 120), (121, 177)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_it_is_upright(orientation, size, options, tmp_path, monkeypatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    make_picture(*size).save(tmp_path / "photo.jpg", quality=95, exif=exif, **options)
    directly, stored = both_ways(tmp_path / "photo.jpg", monkeypatch)
    assert np.abs(directly - stored).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("crop", [Resize(47), Resize(47, "letterbox"), CenterCrop(47, crop_pct=1)])
def test_it_is_upright_in_every_geometry(orientation, crop, tmp_path, monkeypatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    make_picture(121, 177).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    directly, stored = both_ways(tmp_path / "photo.jpg", monkeypatch, crop)
    assert directly.shape == (47, 47, 3) and np.abs(directly - stored).max() <= 6


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_usual_photograph_is_decoded_once(mode, tmp_path, monkeypatch) -> None:
    make_picture(160, 120).convert(mode).save(tmp_path / "photo.jpg")
    monkeypatch.setattr(photograph, "normalize", lambda *args, **options: pytest.fail("decoded a second time"))
    assert read_photograph(tmp_path / "photo.jpg", 48).shape == (48, 48, 3)


def test_what_needs_more_than_a_turn_is_left_to_convert(tmp_path) -> None:
    rgb, file = make_picture(160, 120), io.BytesIO()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb.save(file, "JPEG", icc_profile=srgb)
    assert directly_decodable(file.getvalue()), "sRGB is what the pixels are in"
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.save(tmp_path / "photo.png")
    for name in ("cmyk.jpg", "photo.png"):
        assert directly_decodable((tmp_path / name).read_bytes()) is None
        assert read_photograph(tmp_path / name, 48).shape == (48, 48, 3)
