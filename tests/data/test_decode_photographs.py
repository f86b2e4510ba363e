from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain import decode
from fasttrain.data.photograph import read_photograph
from fasttrain.errors import UserError


def test_paths_and_bytes_give_what_validation_sees(photographs) -> None:
    files = sorted((photographs / "pizza").glob("*.jpg"))[:4]
    pixels = decode([files[0], str(files[1]), files[2].read_bytes(), files[3]], size=48)
    assert pixels.shape == (4, 48, 48, 3) and pixels.dtype == torch.uint8
    assert all(np.array_equal(one, read_photograph(file, 48)) for one, file in zip(pixels, files, strict=True))
    assert torch.equal(decode(files[0], 48), pixels[0])
    assert not torch.equal(decode(files[0], 48, crop_pct=1), pixels[0])
    assert decode([], 48).shape == (0, 48, 48, 3)


def test_it_is_not_limited_to_jpegs(tmp_path) -> None:
    Image.new("RGBA", (60, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", 8) >= 254).all(), "transparency is white"


@pytest.mark.parametrize(
    ("photographs", "said"),
    [
        (["missing.jpg"], "missing.jpg: No such file or directory"),
        ([b"no photograph"], "photograph 0: "),
        (b"", "the photograph: empty file"),
    ],
)
def test_what_cannot_be_read_is_named(photographs, said) -> None:
    with pytest.raises(UserError) as caught:
        decode(photographs, 48)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"size": 0}, {"crop_pct": 0}, {"crop_pct": 1.5}])
def test_ranges(options) -> None:
    with pytest.raises(UserError, match="give at least 1 px"):
        decode(b"", **options)
