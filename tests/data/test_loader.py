"""`fasttrain.Loader`, as someone with a training loop of their own uses it."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import fasttrain
from fasttrain import CenterCrop, Loader, RandomResizedCrop, Resize
from fasttrain.errors import UserError
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet
from tests.support.patience import PATIENCE

CROP = RandomResizedCrop(48, scale=(0.35, 1))


def one_pass(loader: Loader) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat(each) for each in zip(*loader, strict=True))


def test_a_pass_gives_every_photograph_once(shard_folder) -> None:
    with Loader(shard_folder, batch_size=16, crop=CROP, with_ids=True, workers=1) as loader:
        images, labels, ids = one_pass(loader)
        assert len(loader.classes) == 6 and len(loader) == -(-loader.samples // 16)
    shards = ShardSet.open(shard_folder)
    assert images.shape == (loader.samples, 48, 48, 3) and images.dtype == torch.uint8
    assert sorted(ids.tolist()) == shards.ids("train").tolist()
    assert labels.dtype == torch.int64 and labels.tolist() == shards.labels()[ids].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LOADERS))
def test_every_loader_delivers_the_same(name, shard_folder) -> None:
    if reason := loader_class(name).unavailable(ShardSet.open(shard_folder), "cpu"):
        pytest.skip(reason)
    passes = []
    for each in ("torchvision", name):
        with Loader(shard_folder, batch_size=16, crop=CROP, loader=each, seed=3, workers=1, with_ids=True) as loader:
            passes.append(one_pass(loader))
            assert loader.name == each
    (expected, *others), (images, *theirs) = passes
    assert all(torch.equal(a, b) for a, b in zip(others, theirs, strict=True))
    assert np.abs(images.numpy().astype(int) - expected.numpy().astype(int)).mean() < 2


def test_each_pass_is_the_next_epoch(shard_folder) -> None:
    with Loader(shard_folder, batch_size=16, crop=CROP, with_ids=True, workers=1) as loader:
        first, second = one_pass(loader), one_pass(loader)
        assert loader.epoch == 1 and not torch.equal(first[2], second[2])
        loader.set_epoch(0)
        assert all(torch.equal(a, b) for a, b in zip(first, one_pass(loader), strict=True))


def test_a_pass_of_counted_batches_is_an_epoch_too(shard_folder) -> None:
    """Loops that take `len(loader)` batches never ask for one more, as Lightning's and Hugging Face's."""

    def counted(loader: Loader) -> list[int]:
        return [each for _, (_, _, ids) in zip(range(len(loader)), loader, strict=False) for each in ids.tolist()]

    with Loader(shard_folder, batch_size=16, crop=CROP, with_ids=True, workers=1, limit=3) as loader:
        passes = [counted(loader) for _ in range(3)]
        assert loader.epoch == 2 and len(set(map(tuple, passes))) == 3
        loader.set_epoch(2)
        assert counted(loader) == passes[2]
        loader.sampler.set_epoch(0)
        assert counted(loader) == passes[0]
        next(iter(loader))
        assert counted(loader) == passes[1], "left early: the same epoch again"


def test_it_resumes_at_the_very_next_batch(shard_folder) -> None:
    def make() -> Loader:
        return Loader(shard_folder, batch_size=8, crop=CROP, seed=1, workers=1)

    with make() as loader:
        loader.set_epoch(4)
        expected = [images for images, _ in loader]
        loader.set_epoch(4)
        iterator = iter(loader)
        for _ in range(3):
            next(iterator)
        state = loader.state_dict()
    with make() as other:
        other.load_state_dict(state)
        rest = [images for images, _ in other]
    assert len(rest) == len(expected) - 3 and all(map(torch.equal, rest, expected[3:]))


def test_a_pass_resumed_at_its_end_is_the_next_epoch(shard_folder) -> None:
    with Loader(shard_folder, batch_size=16, crop=CROP, with_ids=True, workers=1) as loader:
        one_pass(loader)
        state, expected = loader.state_dict(), one_pass(loader)
    assert state == {"epoch": 0, "samples": loader.samples}
    with Loader(shard_folder, batch_size=16, crop=CROP, with_ids=True, workers=1) as other:
        other.load_state_dict(state)
        assert all(map(torch.equal, one_pass(other), expected)) and other.epoch == 1
        other.load_state_dict(state)
        other.set_epoch(0)
        assert not list(other), "that epoch has been delivered"


def test_evaluation_is_in_order_and_centred(shard_folder) -> None:
    with Loader(shard_folder, split="val", batch_size=5, crop=CenterCrop(48), with_ids=True, workers=1) as loader:
        images, _, ids = one_pass(loader)
    assert ids.tolist() == ShardSet.open(shard_folder).ids("val").tolist()
    with Loader(shard_folder, split="val", crop=CenterCrop(48, crop_pct=1), workers=1) as loader:
        wider, _ = one_pass(loader)
    with Loader(shard_folder, split="val", crop=CenterCrop(48), hflip=1, workers=1) as loader:
        mirrored, _ = one_pass(loader)
    with Loader(shard_folder, split="val", crop=CenterCrop(48), vflip=1, workers=1) as loader:
        upside_down, _ = one_pass(loader)
    assert not torch.equal(wider, images) and torch.equal(mirrored, images.flip(2))
    assert torch.equal(upside_down, images.flip(1))


def test_crops_do_not_depend_on_the_order(shard_folder) -> None:
    def by_id(**options: object) -> dict[int, torch.Tensor]:
        with Loader(shard_folder, batch_size=16, crop=CROP, with_ids=True, workers=1, **options) as loader:
            images, _, ids = one_pass(loader)
            return dict(zip(ids.tolist(), images, strict=True))

    shuffled, ordered = by_id(), by_id(shuffle=False)
    assert list(ordered) == sorted(ordered) != list(shuffled)
    assert all(torch.equal(shuffled[each], ordered[each]) for each in ordered)


def test_a_number_is_the_size_of_the_usual_crop(shard_folder) -> None:
    for split, crop in (("train", RandomResizedCrop(32)), ("val", CenterCrop(32))):
        passes = []
        for given in (32, crop):
            with Loader(shard_folder, split=split, batch_size=16, crop=given, workers=1) as loader:
                passes.append(one_pass(loader)[0])
        assert torch.equal(*passes)


def test_short_batches_and_limits(shard_folder) -> None:
    with Loader(shard_folder, batch_size=14, crop=CROP, drop_last=True, workers=1) as loader:
        sizes = [len(images) for images, _ in loader]
        assert sizes == [14] * (loader.samples // 14) and len(loader) == len(sizes)
    with Loader(shard_folder, batch_size=14, crop=CROP, limit=2, workers=1) as loader:
        assert len(loader) == len(list(loader)) == 2


def test_ranks_share_a_pass(shard_folder) -> None:
    ids = []
    for rank in range(2):
        with Loader(shard_folder, batch_size=8, crop=CROP, rank=rank, world_size=2, with_ids=True, workers=1) as loader:
            ids += one_pass(loader)[2].tolist()
    assert sorted(ids) == ShardSet.open(shard_folder).ids("train").tolist()


def test_a_launcher_without_its_process_group_is_warned_of(shard_folder, monkeypatch, caplog) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    Loader(shard_folder, crop=CROP, workers=1, rank=0, world_size=2).close()
    assert not caplog.records
    Loader(shard_folder, crop=CROP, workers=1).close()
    assert "torch.distributed isn't initialized" in caplog.text


def test_float_batches_are_normalized_and_channels_last(shard_folder) -> None:
    with Loader(shard_folder, split="val", crop=CenterCrop(48), output="float", workers=1) as loader:
        images, _ = next(iter(loader))
    with Loader(shard_folder, split="val", crop=CenterCrop(48), workers=1) as loader:
        pixels, _ = next(iter(loader))
    expected = (pixels / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert images.shape[1:] == (3, 48, 48) and images.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(images, expected.permute(0, 3, 1, 2), atol=1e-5)


def test_a_folder_of_photographs_will_do(photographs, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path))
    with Loader(
        photographs, split="all", batch_size=32, crop=CenterCrop(48), loader="torchvision", workers=0
    ) as loader:
        assert len(one_pass(loader)[0]) == 96


def test_extra_labels_come_with_the_photographs(photographs, tmp_path) -> None:
    files = [path.relative_to(photographs).as_posix() for path in sorted(photographs.rglob("*.jpg"))]
    lines = [f"{file},{file.split('/')[0]},{number / 2},{file}" for number, file in enumerate(files)]
    table = photographs.parent / "labels.csv"
    table.write_text("\n".join(["path,label,weight,caption", *lines]) + "\n")
    options = SourceOptions(root=photographs)
    convert(table, tmp_path / "shards", options=options, workers=1, progress=False)
    extra = ("weight", "caption")
    with Loader(tmp_path / "shards", batch_size=16, crop=CROP, extra_labels=extra, with_ids=True, workers=1) as loader:
        for images, labels, _, more in loader:
            assert len(images) == len(more["caption"]) == len(more["weight"])
            assert more["weight"].dtype == torch.float64
            for label, weight, caption in zip(labels, more["weight"], more["caption"], strict=True):
                assert loader.classes[label] == caption.split("/")[0] and files[int(2 * weight)] == caption
    with pytest.raises(UserError, match="has no column 'price'; it has weight, caption"):
        Loader(tmp_path / "shards", extra_labels=["price"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "trian"}, "split = 'trian' is not one of train, val, test, all; did you mean 'train'"),
        ({"batch_size": 0}, "batch_size = 0: give at least 1"),
        ({"workers": -1}, "workers = -1: give at least 0"),
        ({"crop": "64"}, "crop = '64': give RandomResizedCrop(224), CenterCrop(224), or a size such as 224"),
        ({"hflip": 1.5}, "hflip = 1.5: give a probability, 0 to 1"),
        ({"vflip": -0.1}, "vflip = -0.1: give a probability, 0 to 1"),
        ({"shuffle": "full"}, "shuffle = 'full' is not one of True, False, 'shards'"),
        ({"output": "half"}, "output = 'half' is not one of uint8, float"),
        ({"loader": "nativ"}, "loader = 'nativ' is not one of"),
        ({"device": "gpu"}, "device = 'gpu' is not one of"),
        ({"rank": 2, "world_size": 2}, "rank = 2 of world_size = 2: give 0 to 1"),
    ],
)
def test_mistakes_are_told_in_one_line(options, said, shard_folder) -> None:
    with pytest.raises(UserError) as caught:
        Loader(shard_folder, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomResizedCrop(0),
        lambda: RandomResizedCrop(48, scale=(0.5, 2)),
        lambda: RandomResizedCrop(48, ratio=(2, 1)),
        lambda: CenterCrop(48, crop_pct=1.5),
    ],
)
def test_a_crop_has_ranges(make) -> None:
    with pytest.raises(UserError, match="give"):
        make()


@pytest.mark.parametrize(
    "kind", [RandomResizedCrop, CenterCrop, Resize, functools.partial(Resize, mode="letterbox")], ids=str
)
def test_crops_are_resized_with_their_own_filter(kind, shard_folder) -> None:
    made = {}
    for name in ("native", "torchvision"):
        for interpolation in ("bilinear", "bicubic"):
            crop = kind(48, interpolation=interpolation)
            with Loader(shard_folder, split="val", batch_size=8, crop=crop, hflip=0, loader=name, workers=0) as loader:
                made[name, interpolation] = next(iter(loader))[0].float()
                if name == "native" and isinstance(crop, CenterCrop):
                    assert torch.equal(loader.decode(loader.ids[:8]).float(), made[name, interpolation])
    apart = {
        each: (made["native", each] - made["torchvision", "bicubic"]).abs().mean() for each in ("bilinear", "bicubic")
    }
    assert apart["bicubic"] < 1.5 and apart["bicubic"] < apart["bilinear"] / 2


def test_an_unknown_filter_is_told() -> None:
    with pytest.raises(UserError, match=r"^interpolation = 'cubic' is not one of bilinear, bicubic$"):
        CenterCrop(48, interpolation="cubic")


def test_closing_ends_a_pass(shard_folder, recwarn) -> None:
    loader = Loader(shard_folder, batch_size=8, crop=CROP, workers=1)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    assert next(iterator, None) is None
    del iterator
    gc.collect()
    assert not [each for each in recwarn if "Exception ignored" in str(each.message)]


def test_a_hundred_passes_leave_no_thread_behind(shard_folder) -> None:
    with Loader(shard_folder, batch_size=16, crop=CROP, limit=1, workers=2) as loader:
        list(loader)
        before = threading.active_count()
        for _ in range(100):
            next(iter(loader))
        assert threading.active_count() <= before + 2


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"])
def test_a_script_that_closes_nothing_ends(end, shard_folder) -> None:
    """Python waits for the loader's processes, which take no SIGTERM."""
    code = f"""
from fasttrain import Loader
loader = Loader({str(shard_folder)!r}, batch_size=8, crop=32, loader="torchvision", workers=2)
for images, labels in loader:
    break
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, capture_output=True, text=True)
    assert done.returncode == (3 if end else 0) and not done.stderr, done.stderr


def test_the_names_cost_no_import_of_torch() -> None:
    assert {"Loader", "RandomResizedCrop", "CenterCrop"} <= set(fasttrain.__all__)
    code = "import fasttrain, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
