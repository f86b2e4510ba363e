"""Photograph-like images for the augmentation's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def pictures(photographs: Path) -> torch.Tensor:
    """uint8 [24, 80, 96, 3] from the drawn sample; not square, so that swapped sides show."""
    files = sorted(photographs.rglob("*.jpg"))[::4][:24]
    made = [np.array(Image.open(file).convert("RGB").resize((96, 80))) for file in files]
    return torch.from_numpy(np.stack(made))
