"""Several pictures of each photograph in one batch: SimCLR's two, DINO's eight, whichever loader decodes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasttrain import CenterCrop, Loader, RandomResizedCrop, Resize
from fasttrain.errors import UserError
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.shards.reader import ShardSet

LARGE, SMALL = RandomResizedCrop(48, scale=(0.4, 1)), RandomResizedCrop(32, scale=(0.05, 0.4))


def delivered(data, views, **options) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return each view of a pass, and the ids."""
    with Loader(data, batch_size=16, views=views, seed=3, workers=1, with_ids=True, **options) as loader:
        batches = list(loader)
    return [torch.cat(view) for view in zip(*(batch[0] for batch in batches), strict=True)], torch.cat(
        [batch[2] for batch in batches]
    )


def test_each_view_has_its_size_and_its_own_numbers(shard_folder) -> None:
    (first, second, third), ids = delivered(shard_folder, [LARGE, LARGE, SMALL])
    assert sorted(ids.tolist()) == ShardSet.open(shard_folder).ids("train").tolist()
    assert first.shape == second.shape == (len(ids), 48, 48, 3) and third.shape == (len(ids), 32, 32, 3)
    assert all(not torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_first_view_is_the_picture_without_views(shard_folder) -> None:
    (first, _), _ = delivered(shard_folder, [LARGE, SMALL])
    with Loader(shard_folder, batch_size=16, crop=LARGE, seed=3, workers=1) as loader:
        assert torch.equal(first, torch.cat([images for images, _ in loader]))


def test_views_of_another_order_or_epoch_differ(shard_folder) -> None:
    with Loader(shard_folder, batch_size=16, views=[LARGE, LARGE], seed=3, workers=1) as loader:
        (one, two), _ = next(iter(loader))
        loader.set_epoch(1)
        (other, _), _ = next(iter(loader))
    assert not torch.equal(one, other) and not torch.equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("name", [each for each in LOADERS if each != "torchvision"])
def test_every_loader_delivers_the_same_views(name, shard_folder) -> None:
    if reason := loader_class(name).unavailable(ShardSet.open(shard_folder), "cpu"):
        pytest.skip(reason)
    views = [LARGE, SMALL, LARGE]
    expected, in_order = delivered(shard_folder, views, loader="torchvision")
    found, ids = delivered(shard_folder, views, loader=name)
    assert torch.equal(in_order, ids)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours.numpy().astype(int) - theirs.numpy().astype(int)).mean() < 2


def test_views_resume_at_the_very_next_batch(shard_folder) -> None:
    with Loader(shard_folder, batch_size=16, views=[LARGE, SMALL], seed=3, workers=1) as loader:
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        expected = list(batches)
    with Loader(shard_folder, batch_size=16, views=[LARGE, SMALL], seed=3, workers=1) as loader:
        loader.load_state_dict(state)
        rest = list(loader)
    assert len(rest) == len(expected) > 0
    for (ours, _), (theirs, _) in zip(rest, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_bad_sample_is_left_out_of_every_view(photographs, tmp_path) -> None:
    from fasttrain.shards.convert import convert

    out = tmp_path / "shards"
    convert(str(photographs), out, workers=1, progress=False)
    shards = ShardSet.open(out)
    sample = int(shards.ids("train")[5])
    row = shards.index[sample]
    shard = out / shards.manifest.shards[row["shard"]].name
    data = bytearray(shard.read_bytes())
    data[int(row["offset"]) + int(row["length"]) // 2] ^= 0xFF
    shard.write_bytes(data)
    (one, two), ids = delivered(out, [LARGE, SMALL], on_bad_sample="skip")
    assert sample not in ids and len(one) == len(two) == len(ids) == len(shards.ids("train")) - 1


def test_resize_shows_the_entire_photograph(shard_folder) -> None:
    with Loader(shard_folder, split="val", crop=Resize(48), workers=1) as loader:
        squashed, _ = next(iter(loader))
    with Loader(shard_folder, split="val", crop=CenterCrop(48, crop_pct=1), workers=1) as loader:
        centred, _ = next(iter(loader))
    sizes = ShardSet.open(shard_folder).sizes()[ShardSet.open(shard_folder).ids("val")]
    square = torch.from_numpy(sizes[:, 0] == sizes[:, 1])
    assert not square.all() and torch.equal(squashed[square], centred[square])
    assert all(not torch.equal(*each) for each in zip(squashed[~square], centred[~square], strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"views": []}, "views is empty; give at least one crop"),
        ({"views": [LARGE], "crop": LARGE}, "crop and views exclude each other; leave one of them out"),
    ],
)
def test_views_are_given_in_place_of_a_crop(options, said, shard_folder) -> None:
    with pytest.raises(UserError, match=said):
        Loader(shard_folder, **options)


@pytest.fixture(scope="module")
def oblong(tmp_path_factory) -> object:
    """Return shards of photographs of all shapes: wide, tall, square, and a strip of one pixel."""
    from PIL import Image

    from fasttrain.shards.convert import convert

    folder = tmp_path_factory.mktemp("oblong")
    generator = np.random.default_rng(0)
    sizes = [(90, 60), (60, 90), (64, 64), (200, 40), (1, 80), (37, 111)]
    for name in ("one", "other"):
        (folder / "photographs" / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            small = generator.integers(40, 215, (4, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
            picture.save(folder / "photographs" / name / f"{number}.jpg", quality=95)
    convert(folder / "photographs", folder / "shards", workers=1, progress=False, val_fraction=0, format="tar,beton")
    return folder / "shards"


def test_a_letterbox_keeps_the_aspect_ratio(oblong) -> None:
    side = 48
    with Loader(
        oblong, crop=Resize(side, mode="letterbox"), hflip=0, workers=1, shuffle=False, with_ids=True
    ) as loader:
        ((images, _, ids),) = loader
        squashed = {
            int(sample): loader.decode([sample], np.array([[0, 0, height, width]], np.int32), size=side)[0]
            for sample, (height, width) in zip(ids.tolist(), loader.shards.sizes()[ids].tolist(), strict=True)
        }
    sizes = ShardSet.open(oblong).sizes()
    for picture, sample in zip(images, ids.tolist(), strict=True):
        height, width = sizes[sample].tolist()
        inner = [max(1, round(side * each / max(height, width))) for each in (height, width)]
        top, left = ((side - each) // 2 for each in inner)
        within = torch.zeros((side, side), dtype=torch.bool)
        within[top : top + inner[0], left : left + inner[1]] = True
        assert (picture[~within] == 114).all()
        mean = picture[within].float().mean(0) - squashed[sample].float().mean((0, 1))
        assert mean.abs().max() < 4, (height, width)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crop", "hflip", "vflip"),
    [
        (Resize(48, mode="letterbox"), 0, 0),
        (Resize(48, mode="letterbox"), 1, 0),
        (Resize(48, mode="letterbox"), 0, 1),
        (Resize(48, mode="letterbox", interpolation="bicubic"), 1, 1),
        (Resize(48, mode="squash"), 0, 0),
        (CenterCrop(48, crop_pct=1), 0, 0),
    ],
)
@pytest.mark.parametrize("name", [each for each in LOADERS if each != "torchvision"])
def test_every_loader_resizes_alike(name, crop, hflip, vflip, oblong) -> None:
    if reason := loader_class(name).unavailable(ShardSet.open(oblong), "cpu"):
        pytest.skip(reason)
    passes = []
    for each in ("torchvision", name):
        options = {"crop": crop, "loader": each, "seed": 1, "workers": 1}
        with Loader(oblong, hflip=hflip, vflip=vflip, **options) as loader:
            ((images, _),) = loader
            passes.append(images.numpy().astype(int))
    expected, found = passes
    assert np.abs(found - expected).max() < 40 and np.abs(found - expected).mean(axis=(1, 2, 3)).max() < 2


def test_a_resize_has_modes() -> None:
    with pytest.raises(UserError, match="give 'squash' or 'letterbox'"):
        Resize(48, mode="crop")
