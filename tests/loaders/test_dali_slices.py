"""DALI fed with slices of cut JPEGs gives the very pixels that it gives when fed the whole photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.dali import DaliLoader
from fasttrain.loaders.plan import Batch, Crop
from fasttrain.loaders.slices import can_slice, complete_jpegs, sliced_jpegs
from fasttrain.photos.cut import slice_jpeg
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

pytest.importorskip("nvidia.dali")
pytest.importorskip("fasttrain._native")

SIZES = [(150, 90), (129, 131), (64, 48), (37, 129), (16, 16), (9, 7), (1, 1), (201, 33)]
KINDS: dict[str, dict[str, object]] = {
    "420": {"subsampling": 2},
    "422": {"subsampling": 1},
    "444": {"subsampling": 0},
    "progressive": {"subsampling": 2, "progressive": True},
    "grey": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class for each kind of JPEG, one photograph for each size."""
    root = tmp_path_factory.mktemp("dali_slices")
    rng = np.random.default_rng(4)
    for kind, options in KINDS.items():
        (root / kind).mkdir()
        for number, (width, height) in enumerate(SIZES):
            picture = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height))
            noisy = np.asarray(picture) // 2 + rng.integers(0, 120, (height, width, 3), np.uint8)
            mode = "L" if kind == "grey" else "RGB"
            Image.fromarray(noisy).convert(mode).save(root / kind / f"{number}.jpg", quality=90, **options)
    return root


@pytest.fixture(scope="module", params=["mcu", "row"])
def shards(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = tmp_path_factory.mktemp("shards") / request.param
    convert(str(folder), out, workers=1, progress=False, cut=request.param)
    return ShardSet.open(out)


def loader(shards: ShardSet, ids: np.ndarray, *, sliced: bool, **changes: object) -> DaliLoader:
    settings = LoaderSettings(**{"batch_size": 8, "image_size": 48, "crop": Crop(), "workers": 2, **changes})
    made = DaliLoader(shards, ids, settings)
    assert made.sliced, "cut shards are sliced unless one says otherwise"
    made.sliced = sliced
    return made


def pixels(shards: ShardSet, batches: list[Batch], *, sliced: bool) -> list[torch.Tensor]:
    made = loader(shards, shards.ids("train"), sliced=sliced)
    try:
        found = [images.clone() for images, bad in made._load(batches) if not bad]
    finally:
        made.close()
    assert len(found) == len(batches)
    return found


def boxes_of(sizes: np.ndarray) -> list[np.ndarray]:
    """For each of the photographs' (height, width), int32 [n, 4]: the whole, all corners and borders, a pixel, two at
    random."""
    rng = np.random.default_rng(8)
    height, width = sizes[:, 0], sizes[:, 1]
    tall, wide = np.maximum(height // 2, 1), np.maximum(width // 3, 1)
    zero, one = np.zeros_like(height), np.ones_like(height)
    found = [(zero, zero, height, width), (zero, zero, one, one), (height - 1, width - 1, one, one)]
    found += [(top, left, tall, wide) for top in (zero, height - tall) for left in (zero, width - wide)]
    found += [(zero, width // 3, height, wide), (height // 4, zero, tall, width)]
    for _ in range(4):
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        found.append((rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1), tall, wide))
    return [np.stack(box, axis=1).astype(np.int32) for box in found]


def test_every_border_bit_for_bit(shards: ShardSet) -> None:
    ids = np.concatenate([shards.ids(split) for split in ("train", "val", "test")])
    batches = [
        Batch(some, boxes, np.arange(len(some)) % 3 == 0, (48, 48))
        for some in np.split(ids, range(8, len(ids), 8))
        for boxes in boxes_of(shards.sizes()[some])
    ]
    for batch, ours, whole in zip(
        batches, pixels(shards, batches, sliced=True), pixels(shards, batches, sliced=False), strict=True
    ):
        differs = (ours != whole).flatten(1).any(1)
        assert not differs.any(), f"{shards.describe(int(batch.ids[differs][0]))} {batch.boxes[differs][0]}"


@pytest.mark.parametrize("crop", [Crop(), None])
def test_an_epoch_bit_for_bit(shards: ShardSet, crop: Crop | None) -> None:
    split = "train" if crop else "val"
    ours, whole = (loader(shards, shards.ids(split), sliced=sliced, crop=crop) for sliced in (True, False))
    for (a, _, ids), (b, _, others) in zip(ours, whole, strict=True):
        assert torch.equal(ids, others) and torch.equal(a, b)
    ours.close()
    whole.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_batch_is_slice_jpeg_of_each(shards: ShardSet, threads: int) -> None:
    ids = shards.ids("train")
    sizes = shards.sizes()[ids]
    for boxes in boxes_of(sizes):
        batch = Batch(ids, boxes, np.zeros(len(ids), np.bool_), (48, 48))
        jpegs, corners = sliced_jpegs(shards, batch, threads)
        for sample, box, jpeg, corner in zip(ids, boxes, jpegs, corners, strict=True):
            part, top, left = slice_jpeg(shards.bytes(int(sample)), tuple(box.tolist()))
            assert (jpeg.tobytes(), tuple(corner)) == (part, (top, left))


def test_a_crop_feeds_less_than_the_whole(shards: ShardSet) -> None:
    ids = shards.ids("train")
    ids = ids[shards.sizes()[ids].min(axis=1) >= 48]
    boxes = np.tile(np.array([8, 8, 8, 8], np.int32), (len(ids), 1))
    batch = Batch(ids, boxes, np.zeros(len(ids), np.bool_), (48, 48))
    for part, whole in zip(sliced_jpegs(shards, batch)[0], complete_jpegs(shards, batch)[0], strict=True):
        assert len(part) < len(whole)


def test_uncut_shards_go_in_whole(folder: Path, tmp_path: Path) -> None:
    convert(str(folder), tmp_path / "uncut", workers=1, progress=False, cut="none")
    uncut = ShardSet.open(tmp_path / "uncut")
    assert not can_slice(uncut) and not DaliLoader(uncut, uncut.ids("train"), LoaderSettings(8, 48, Crop())).sliced
    # Their JPEGs, where a shard holds both kinds: no slice, no error.
    ids = uncut.ids("train")
    batch = Batch(ids, boxes_of(uncut.sizes()[ids])[-1], np.zeros(len(ids), np.bool_), (48, 48))
    jpegs, corners = sliced_jpegs(uncut, batch, 2)
    whole, anchors = complete_jpegs(uncut, batch)
    assert [jpeg.tobytes() for jpeg in jpegs] == [jpeg.tobytes() for jpeg in whole]
    np.testing.assert_array_equal(corners, anchors)


@pytest.mark.parametrize("place", [0, 11])
@pytest.mark.parametrize("damage", ["header", "tail"])
def test_a_broken_photograph_is_named(shards: ShardSet, tmp_path: Path, place: int, damage: str) -> None:
    made = loader(shards, shards.ids("train"), sliced=True)
    sample = int(made.plan().ids[place])
    row = shards.index[sample]
    broken = tmp_path / "broken"
    shutil.copytree(shards.folder, broken)
    path = broken / shards.manifest.shards[row["shard"]].name
    content = bytearray(path.read_bytes())
    start, length = int(row["offset"]), int(row["length"])
    gone = slice(start, start + 64) if damage == "header" else slice(start + length // 2, start + length)
    content[gone] = bytes(gone.stop - gone.start)
    path.write_bytes(content)
    there = ShardSet.open(broken)
    for sliced in (True, False):
        made = loader(there, there.ids("train"), sliced=sliced)
        with pytest.raises(UserError, match=r"(DALI can't|its bytes have).*on-bad-sample skip") as error:
            list(made)
        assert f"({row['key'].decode()})" in str(error.value)
        made.close()
