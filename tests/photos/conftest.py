"""Pictures with something in them, for the tests of photographs."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture
def picture() -> Image.Image:
    """RGB, 64x48, smooth, with no symmetry."""
    down, across = np.mgrid[0:48, 0:64]
    pixels = np.stack([across * 4, down * 5, (across + 2 * down) % 160], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def encode() -> Encode:
    """encode(image, "PNG", **options): the file's bytes."""

    def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encoded


@pytest.fixture(params=["native", "python"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs a test with the C++ module and without it."""
    from fasttrain.photos import normalize
    from fasttrain.photos.cut import native_available

    if request.param == "python":
        monkeypatch.setattr(normalize, "native_available", lambda: False)
        return False
    if not native_available():
        pytest.skip("the C++ module isn't built")
    return True
