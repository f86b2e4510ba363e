"""The `.beton` files: FFCV's own reader and stock decoders read them; deterministic, resumable, atomic."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.shards import beton
from fasttrain.shards.beton import beton_problem, write_betons
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet


@pytest.fixture
def shards(shard_folder, tmp_path):
    """A copy of the small shards without their betons."""
    copy = tmp_path / "shards"
    shutil.copytree(shard_folder, copy, ignore=shutil.ignore_patterns("*beton*"))
    return ShardSet.open(copy)


@pytest.mark.slow
def test_ffcvs_reader_finds_the_same_bytes_and_labels(shards):
    reader_module = pytest.importorskip("ffcv.reader")
    write_betons(shards)
    for split in ("train", "val"):
        ids = shards.ids(split)
        path = shards.folder / f"{split}.beton"
        reader = reader_module.Reader(str(path))
        assert reader.num_samples == len(ids) and list(reader.handlers) == ["image", "label"]
        content = path.read_bytes()
        sizes = dict(zip(reader.alloc_table["ptr"], reader.alloc_table["size"], strict=True))
        for row, sample in enumerate(ids):
            image, label = reader.metadata[row]
            start = int(image["data_ptr"])
            assert content[start : start + int(sizes[start])] == bytes(shards.bytes(int(sample)))
            assert [image["height"], image["width"]] == shards.sizes()[sample].tolist()
            assert label == shards.labels()[sample]


@pytest.mark.slow
def test_ffcvs_stock_decoders_read_it(shards):
    pytest.importorskip("ffcv")
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    write_betons(shards)
    loader = Loader(
        str(shards.folder / "val.beton"),
        batch_size=8,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={
            "image": [CenterCropRGBImageDecoder((64, 64), 224 / 256), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    labels = [int(label) for _, batch in loader for label in batch]
    images = [image.numpy().copy() for batch, _ in loader for image in batch]
    ids = shards.ids("val")
    assert labels == shards.labels()[ids].tolist()
    from fasttrain.loaders.plan import centre_boxes
    from fasttrain.loaders.torchvision import decode_crop

    for image, sample in zip(images, ids.tolist(), strict=True):
        box = centre_boxes(shards.sizes()[[sample]])[0]
        ours = decode_crop(shards.bytes(sample), box, False, (64, 64)).numpy()
        # Its fast DCT and INTER_AREA stay near ours; another photograph is over 30 grey levels away.
        assert np.abs(image.astype(int) - ours.astype(int)).mean() < 8


def test_the_same_shards_give_the_same_file(shards, tmp_path):
    first = [path.read_bytes() for path in write_betons(shards)]
    for path in shards.folder.glob("*beton*"):
        path.unlink()
    assert [path.read_bytes() for path in write_betons(shards)] == first


def test_stopped_half_way_it_goes_on_and_ends_the_same(shards):
    whole = [path.read_bytes() for path in write_betons(shards)]
    for path in shards.folder.glob("*beton*"):
        path.unlink()
    done = 0

    class Killed(Exception):
        pass

    def stop(images: int) -> None:
        nonlocal done
        done += images
        if done == 20:
            raise Killed

    with pytest.raises(Killed):
        write_betons(shards, stop)
    assert not list(shards.folder.glob("*.beton")), "nothing half-written has the real name"
    counted: list[int] = []
    assert [path.read_bytes() for path in write_betons(shards, counted.append)] == whole
    assert counted[0] > 1, "it did not go on where it stopped"
    assert sum(counted) == len(shards)


def test_stale_and_short_files_are_noticed(shards):
    assert "convert with --format tar,beton" in beton_problem(shards, "train")
    write_betons(shards)
    assert beton_problem(shards, "train") is None
    path = shards.folder / "train.beton"
    path.write_bytes(path.read_bytes()[:-5])
    assert "bytes" in beton_problem(shards, "train")
    write_betons(shards)
    assert beton_problem(shards, "train") is None
    record = json.loads((shards.folder / beton.RECORD).read_text())
    record["shards"] = "sha256:of other shards"
    (shards.folder / beton.RECORD).write_text(json.dumps(record))
    assert beton_problem(shards, "train") is not None


def test_samples_greater_than_a_page_and_many_pages(shards, monkeypatch):
    monkeypatch.setattr(beton, "_LEAST_PAGE", 1 << 14)
    path = write_betons(shards)[0]
    content = path.read_bytes()
    header = np.frombuffer(content, beton.HEADER, 1)[0]
    page = int(header["page_size"])
    table = np.frombuffer(content, beton.ALLOCATION, offset=int(header["alloc_table_ptr"]))
    assert len({int(row["ptr"]) // page for row in table}) > 1
    for row in table:
        assert int(row["ptr"]) // page == (int(row["ptr"]) + int(row["size"]) - 1) // page, "crosses a page"


def test_convert_makes_them_on_request(photographs, tmp_path):
    convert(str(photographs), tmp_path / "out", progress=False, format="tar,beton")
    assert beton_problem(ShardSet.open(tmp_path / "out"), "train") is None
    with pytest.raises(UserError, match="neither tar nor beton"):
        convert(str(photographs), tmp_path / "other", progress=False, format="lmdb")
