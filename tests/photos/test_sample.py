from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.photos.jpeg import read_header
from fasttrain.photos.sample import VERSION, cached_sample, draw_sample
from fasttrain.photos.sources import open_source


def test_classes_sizes_and_format(photographs) -> None:
    source = open_source(photographs)
    assert source.classes == ("donuts", "pancakes", "pizza", "salad", "soup", "sushi")
    assert np.bincount(source.labels).tolist() == [16] * 6
    sizes = set()
    for path in source.paths:
        header = read_header((photographs / path).read_bytes())
        sizes.add((header.width, header.height))
        assert header.sampling == ((2, 2), (1, 1), (1, 1)) and not header.progressive
    assert sizes == {(256, 192), (256, 256), (256, 320)}


@pytest.mark.slow
def test_drawn_alike_each_time_and_unlike_each_other(tmp_path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_sample(tmp_path / name, per_class=2, seed=seed)
    first, again, other = ([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jpg"))] for name in "abc")
    assert first == again
    assert len({*first, *other}) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.slow
def test_mean_colour_alone_does_not_tell_the_classes(photographs) -> None:
    """Photograph-like: a nearest-mean classifier on average colour must stay below what a network reaches."""
    source = open_source(photographs)
    colours = np.array(
        [
            np.asarray(Image.open(io.BytesIO((photographs / path).read_bytes())).resize((1, 1), Image.Resampling.BOX))[
                0, 0
            ]
            for path in source.paths
        ]
    ).astype(float)
    fit = np.arange(len(colours)) % 2 == 0
    means = np.stack([colours[fit & (source.labels == label)].mean(axis=0) for label in range(6)])
    guess = ((colours[~fit, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (guess == source.labels[~fit]).mean() < 0.85


def test_cache_is_used_again_and_must_be_writable(tmp_path) -> None:
    there = tmp_path / f"sample-v{VERSION}" / "soup"
    there.mkdir(parents=True)
    assert cached_sample(tmp_path) == there.parent
    assert list(there.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="FASTTRAIN_CACHE"):
        cached_sample(tmp_path / "file")
