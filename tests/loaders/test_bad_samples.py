"""Samples whose bytes have changed, or that don't decode: refused by name, or left out alike by every loader."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.convert import convert
from fasttrain.shards.format import index_dtype
from fasttrain.shards.reader import ShardSet

SETTINGS = LoaderSettings(batch_size=8, image_size=32, crop=Crop(), seed=3, workers=1, on_bad_sample="skip")
BAD = (3, 11, 40)  # a bit flipped in its entropy-coded data, its head overwritten, its second half zeros


@pytest.fixture(params=list(LOADERS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def sound(shard_folder):
    return ShardSet.open(shard_folder)


@pytest.fixture(scope="module")
def damaged(sound, tmp_path_factory):
    folder = Path(shutil.copytree(sound.folder, tmp_path_factory.mktemp("damaged") / "shards"))
    flipped, beheaded, halved = BAD
    spoil(sound, folder, flipped, lambda data: data[:-500] + bytes([data[-500] ^ 1]) + data[-499:])
    spoil(sound, folder, beheaded, lambda data: bytes(64) + data[64:])
    spoil(sound, folder, halved, lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    return ShardSet.open(folder)


def spoil(sound, folder, sample, change):
    """The sample's bytes, changed, in its shard and in FFCV's file."""
    row, data = sound.index[sample], bytes(sound.bytes(sample))
    changed = change(data)
    assert len(changed) == len(data) and changed != data
    for path in (folder / sound.manifest.shards[row["shard"]].name, folder / "train.beton"):
        content = path.read_bytes()
        start = int(row["offset"]) if path.suffix == ".tar" else content.find(data)
        path.write_bytes(content[:start] + changed + content[start + len(data) :])


def make(name, shards, split="train", **changes):
    kind = loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        pytest.skip(reason)
    return kind(shards, shards.ids(split), replace(SETTINGS, **changes))


def ids_of(batches):
    return torch.cat([ids for _, _, ids in batches]).tolist()


@pytest.mark.slow
def test_the_first_one_ends_the_run_by_name(name, damaged):
    loader = make(name, damaged, on_bad_sample="error")
    first = next(sample for sample in loader.plan().ids.tolist() if sample in BAD)
    with pytest.raises(UserError) as caught:
        list(loader)
    loader.close()
    said = str(caught.value)
    shard = damaged.manifest.shards[damaged.index["shard"][first]].name
    assert f"{shard} ({damaged.index['key'][first].decode()}): its bytes have changed" in said
    assert f"`fasttrain inspect {damaged.folder} --verify`" in said and "--on-bad-sample skip" in said
    assert "\n" not in said


@pytest.mark.slow
def test_all_leave_out_the_same_and_nothing_else(name, sound, damaged):
    """Each batch is the sound shards' without the bad ones, pixel for pixel."""
    told = []
    whole, loader = make(name, sound), make(name, damaged, report=told.append)
    for epoch in (0, 1):
        for each in (whole, loader):
            each.set_epoch(epoch)
        for (images, labels, ids), (all_images, all_labels, all_ids) in zip(loader, whole, strict=True):
            kept = ~np.isin(all_ids.numpy(), BAD)
            assert ids.tolist() == all_ids[kept].tolist() and labels.tolist() == all_labels[kept].tolist()
            assert torch.equal(images, all_images[kept])
        assert loader.bad_count == len(BAD) and loader.bad_samples.keys() == set(BAD)
        assert loader.state_dict()["samples"] == len(sound.ids("train")), "they count as delivered"
    assert len(told) == len(BAD), "each is reported once"
    assert all(damaged.index["key"][sample].decode() in "".join(told) for sample in BAD)
    for each in (whole, loader):
        each.close()


@pytest.mark.slow
def test_a_run_resumed_goes_on_the_same(name, damaged):
    loader = make(name, damaged)
    whole = list(loader)
    loader.close()
    loader = make(name, damaged)
    list(itertools.islice(loader, 4))
    state = loader.state_dict()
    loader.close()
    before = sum(sample in BAD for sample in loader.plan().ids[:32].tolist())
    assert 0 < before < len(BAD) and state == {"epoch": 0, "samples": 32, "bad_samples": before}
    resumed = make(name, damaged)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert ids_of(rest) == ids_of(whole[4:])
    assert all(torch.equal(one[0], other[0]) for one, other in zip(rest, whole[4:], strict=True))
    assert resumed.bad_count == len(BAD)
    resumed.set_epoch(1)
    assert resumed.bad_count == 0 and "bad_samples" not in resumed.state_dict()
    resumed.close()


@pytest.mark.slow
def test_a_consumer_that_stops_early_hides_none(name, damaged):
    loader = make(name, damaged)
    for batches in (1, 2, 3):
        list(itertools.islice(loader, batches))
    assert set(ids_of(loader)) == set(damaged.ids("train").tolist()) - set(BAD)
    loader.close()


def test_without_the_native_module_zlib_compares(damaged, monkeypatch):
    monkeypatch.setattr("fasttrain.loaders.checksums.native_available", lambda: False)
    loader = make("torchvision", damaged, workers=0)
    assert set(ids_of(loader)) == set(damaged.ids("train").tolist()) - set(BAD)


@pytest.mark.slow
def test_a_batch_of_bad_ones_alone_is_empty(name, damaged):
    loader = make(name, damaged, batch_size=1)
    batches = list(loader)
    assert sorted(len(ids) for _, _, ids in batches) == [0] * len(BAD) + [1] * (len(loader) - len(BAD))
    assert all(len(images) == len(labels) == len(ids) for images, labels, ids in batches)
    loader.close()


def test_ranks_take_as_many_steps_and_every_sample_once(damaged):
    steps, seen = [], []
    for rank in (0, 1):
        loader = make("torchvision", damaged, batch_size=1, rank=rank, world_size=2, workers=0)
        batches = list(loader)
        steps.append(len(batches))
        seen += ids_of(batches)
        assert sorted(loader.bad_samples) == sorted(set(BAD) & set(loader.plan().ids[rank::2].tolist()))
        loader.load_state_dict({"epoch": 0, "samples": 20, "bad_samples": 3})
        assert loader.bad_count == (0 if rank else 3), "a checkpoint's are all ranks'"
    assert steps[0] == steps[1] == -(-len(damaged.ids("train")) // 2)
    assert sorted(seen) == sorted(set(damaged.ids("train").tolist()) - set(BAD))


class Operations(TorchDispatchMode):
    """Notes the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("bad", [{0}, {7}, {2, 3, 6}, set(range(8))])
def test_leaving_them_out_on_a_gpu_copies_nothing_from_the_host(sound, bad):
    loader = make("torchvision", sound, workers=0, report=lambda line: None)
    batch = loader.plan().batch(0, 8)
    kept = [place for place in range(8) if place not in bad]
    pixels = torch.arange(8 * 3, dtype=torch.uint8).reshape(8, 1, 1, 3)
    ids, (images,) = loader._without_bad(batch, [pixels], dict.fromkeys(bad, "why"))
    assert ids.tolist() == batch.ids[kept].tolist() and torch.equal(images, pixels[kept])
    with FakeTensorMode(), Operations() as operations:
        on_gpu = torch.empty(8, 1, 1, 3, dtype=torch.uint8, device="cuda")
        operations.names.clear()
        _, (images,) = loader._without_bad(batch, [on_gpu], dict.fromkeys(bad, "why"))
    assert images.is_cuda and len(images) == len(kept)
    assert set(operations.names) - {"device"} == {"slice", "cat"}


@pytest.mark.parametrize("count", [10, 11])
@pytest.mark.slow
def test_more_than_ten_of_a_small_epoch_end_it(name, sound, tmp_path, count):
    folder = Path(shutil.copytree(sound.folder, tmp_path / "shards"))
    for sample in range(count):
        spoil(sound, folder, sample, lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    loader = make(name, ShardSet.open(folder))
    if count == 10:
        assert len(ids_of(loader)) == len(sound.ids("train")) - 10
    else:
        with pytest.raises(UserError, match="more than 10 bad samples in one epoch"):
            list(loader)
    loader.close()


def test_a_hundredth_of_a_large_epoch_may_be_bad():
    assert [SETTINGS.most_bad(count) for count in (1, 1000, 1100, 75_750)] == [10, 10, 11, 757]
    assert replace(SETTINGS, world_size=2).most_bad(75_750) == 378


@pytest.mark.slow
def test_evaluation_counts_the_good_ones_once(name, sound, damaged, tmp_path):
    folder = Path(shutil.copytree(sound.folder, tmp_path / "shards"))
    sample = int(sound.ids("val")[2])
    row = sound.index[sample]
    for path in (folder / sound.manifest.shards[row["shard"]].name, folder / "val.beton"):
        content = bytearray(path.read_bytes())
        content[content.find(sound.bytes(sample)) + 700] ^= 8
        path.write_bytes(content)
    loader = make(name, ShardSet.open(folder), "val", crop=None)
    assert ids_of(loader) == [each for each in sound.ids("val").tolist() if each != sample]
    loader.close()


@pytest.mark.slow
def test_without_checksums_in_the_index_the_decoder_decides(name, damaged, signed, tmp_path):
    """Older versions of fasttrain wrote such shards."""
    folder = Path(shutil.copytree(damaged.folder, tmp_path / "shards"))
    columns = index_dtype(damaged.index.dtype["key"].itemsize).descr[:-1]
    older = np.empty(len(damaged), columns)
    for column, _ in columns:
        older[column] = damaged.index[column]
    np.save(folder / "index.npy", older)
    shards = ShardSet.open(signed(folder))
    assert shards.crc32s() is None
    loader = make(name, shards)
    left = set(shards.ids("train").tolist()) - set(ids_of(loader))
    assert 11 in left and left <= set(BAD), "its head is gone"
    loader.close()


@pytest.mark.parametrize("name", ["native", "torchvision"])
@pytest.mark.slow
def test_raw_pixels_have_checksums_too(name, photographs, tmp_path):
    convert(photographs, tmp_path / "raw", raw=True, max_size=64, workers=1, progress=False)
    row = ShardSet.open(tmp_path / "raw").index[5]
    path = tmp_path / "raw" / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[int(row["offset"]) + 99] ^= 128
    path.write_bytes(content)
    loader = make(name, ShardSet.open(tmp_path / "raw"))
    assert 5 not in ids_of(loader) and list(loader.bad_samples) == [5]
    loader.close()
