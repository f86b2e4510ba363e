"""JPEGs of more scans than any encoder writes: every way in takes 100, and refuses more."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import jpegs
import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.photos.cut import slice_jpeg
from fasttrain.photos.jpeg import require_few_scans
from fasttrain.photos.normalize import BrokenPhoto, decode, normalize
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

native = pytest.importorskip("fasttrain._native")

MOST = 100
TOO_MANY = "more than 100 scans"


def baseline(scans: int) -> bytes:
    """Return a JPEG of three scans, one a component, of which the last is repeated."""
    source = jpegs.sample("4:2:0", 40, 30, 0, False)
    last = source[source.rindex(b"\xff\xda") : -2]
    return source[:-2] + last * (scans - 3) + b"\xff\xd9"


MAKERS = {"progressive": jpegs.progressive_jpeg, "baseline": baseline}
WAYS = {
    "the header's check": require_few_scans,
    "convert --cut mcu": lambda data: normalize(data, cut="mcu"),
    "convert --cut row": lambda data: normalize(data, cut="row"),
    "convert --cut none": lambda data: normalize(data, cut="none"),
    "convert --raw": lambda data: decode(data, max_size=64),
    "cut": lambda data: native.cut(data, "mcu", True),
    "decode": lambda data: native.decode_crop(data, (0, 0, 30, 40), False, (16, 16)),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("kind", list(MAKERS))
def test_every_way_in_has_the_same_limit(kind, way):
    assert MAKERS[kind](MOST).count(b"\xff\xda") == MOST
    WAYS[way](MAKERS[kind](MOST))
    for scans in (MOST + 1, 150, 190):
        with pytest.raises((ValueError, BrokenPhoto), match=TOO_MANY):
            WAYS[way](MAKERS[kind](scans))


@pytest.mark.parametrize("scans", [501, 600])
def test_thousands_are_refused_in_the_same_words(scans):
    for way in WAYS.values():
        with pytest.raises((ValueError, BrokenPhoto), match=TOO_MANY):
            way(baseline(scans))


def test_a_progressive_one_at_the_limit_keeps_its_coefficients():
    data = jpegs.progressive_jpeg(MOST)
    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(native.cut(data, "mcu", True))) as cut:
        assert np.array_equal(np.asarray(image), np.asarray(cut))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory, signed) -> Path:
    """Shards that `convert` would not have made, as their photographs have a scan too many."""
    folder, many = tmp_path_factory.mktemp("scans"), jpegs.progressive_jpeg(MOST + 1)
    few = jpegs.progressive_jpeg(MOST)
    few = few[:2] + jpegs.marker(0xFE, bytes(len(many) - len(few) - 4)) + few[2:]
    for name in ("one/0.jpg", "one/1.jpg", "two/0.jpg", "two/1.jpg"):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes(few)
    shards = folder / "shards"
    convert(folder / "source", shards, workers=1, progress=False, cut="none", format="tar,beton")
    for path in [*shards.glob("*.tar"), *shards.glob("*.beton")]:
        assert few in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(few, many))
    index = np.load(shards / "index.npy")
    index["crc32"] = zlib.crc32(many)
    np.save(shards / "index.npy", index)
    return signed(shards)


@pytest.mark.parametrize("name", list(LOADERS))
def test_every_loader_refuses_them(name, strangers):
    shards = ShardSet.open(strangers)
    if reason := loader_class(name).unavailable(shards, "cpu"):
        pytest.skip(reason)
    loader = loader_class(name)(shards, shards.ids("train"), LoaderSettings(4, 32, crop=None))
    with pytest.raises(UserError, match=TOO_MANY):
        list(loader)
    loader.close()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_none_is_sliced(kind):
    with pytest.raises(ValueError, match="only one interleaved baseline scan"):
        slice_jpeg(MAKERS[kind](MOST + 1), (0, 0, 8, 8))
