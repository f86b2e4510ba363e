"""`Loader(folder, convert=False)`: photographs that were never converted."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain import CenterCrop, Loader, RandomResizedCrop
from fasttrain.errors import UserError
from fasttrain.shards.convert import convert
from fasttrain.shards.unconverted import open_photographs

CROP = RandomResizedCrop(48, scale=(0.35, 1))


@pytest.fixture
def folder(photographs, tmp_path, monkeypatch) -> Path:
    """Return a copy of the photographs, of which one is a PNG, one is turned, and one is broken."""
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "photographs"
    shutil.copytree(photographs, copy)
    first, second, third, *_ = sorted(copy.rglob("*.jpg"))
    Image.open(first).save(first.with_suffix(".png"))
    first.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(second).save(second, quality=95, exif=exif)
    third.write_bytes(b"not a photograph")
    return copy


def pictures(data, **options) -> dict[str, torch.Tensor]:
    """Return each photograph's picture by its class and file name."""
    with Loader(data, crop=CROP, batch_size=16, seed=2, workers=1, with_ids=True, **options) as loader:
        return {
            loader.shards.describe(int(sample)): picture
            for images, _, ids in loader
            for sample, picture in zip(ids, images, strict=True)
        }


def test_the_same_photographs_labels_and_splits_as_shards(folder, tmp_path) -> None:
    convert(folder, tmp_path / "shards", workers=1, progress=False)
    for split in ("train", "val", "all"):
        with (
            Loader(folder, convert=False, split=split, crop=CenterCrop(48), hflip=0, workers=1) as plain,
            Loader(tmp_path / "shards", split=split, crop=CenterCrop(48), hflip=0, workers=1) as shards,
        ):
            assert plain.classes == shards.classes and plain.samples == shards.samples

            def seen(loader) -> list[tuple[int, bytes]]:
                return sorted(
                    (int(label), picture.numpy().tobytes())
                    for images, labels in loader
                    for label, picture in zip(labels, images, strict=True)
                )

            assert seen(plain) == seen(shards)


def test_what_is_broken_is_named(folder, caplog) -> None:
    opened = open_photographs(folder)
    broken = sorted(folder.rglob("*.jpg"))[1]
    assert opened.left_out() == "left out: broken photographs 1"
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [str(broken)]


@pytest.mark.slow
def test_torchvision_reads_it_too(folder) -> None:
    native, torchvision = (pictures(folder, convert=False, loader=name) for name in ("native", "torchvision"))
    assert native.keys() == torchvision.keys() and len(native) > 50
    for name, picture in native.items():
        assert np.abs(picture.numpy().astype(int) - torchvision[name].numpy()).mean() < 3


def test_only_the_first_time_looks_at_every_file(folder, monkeypatch) -> None:
    before = pictures(folder, convert=False)
    with monkeypatch.context() as patched:
        patched.setattr("fasttrain.shards.unconverted._examine", lambda *_: pytest.fail("examined again"))
        again = pictures(folder, convert=False)
    assert before.keys() == again.keys() and all(torch.equal(before[each], again[each]) for each in before)
    count = len(open_photographs(folder))
    sorted(folder.rglob("*.jpg"))[5].unlink()
    assert len(open_photographs(folder)) == count - 1, "a changed folder is another one"


def test_a_file_that_goes_away_is_a_bad_sample(folder) -> None:
    with Loader(folder, convert=False, crop=CROP, workers=1, on_bad_sample="skip", with_ids=True) as loader:
        gone = int(loader.ids[7])
        Path(loader.shards.describe(gone)).unlink()
        ids = torch.cat([ids for *_, ids in loader])
        assert gone not in ids and len(ids) == loader.samples - 1 and list(loader.bad_samples) == [gone]
    with Loader(folder, convert=False, crop=CROP, workers=1) as loader:
        Path(loader.shards.describe(int(loader.ids[10]))).write_bytes(b"not a photograph")
        with pytest.raises(UserError, match="--on-bad-sample skip"):
            list(loader)


def test_it_can_be_pickled(folder) -> None:
    opened = open_photographs(folder)
    turned = [each for each in range(len(opened)) if opened.index["length"][each]]
    assert len(turned) == 2
    restored = pickle.loads(pickle.dumps(opened))
    assert all(restored.bytes(each) == opened.bytes(each) for each in [0, *turned])


def test_shards_are_refused(shard_folder) -> None:
    with pytest.raises(UserError, match="convert=False works only with a folder of photographs"):
        Loader(shard_folder, convert=False)
