"""`fasttrain preview` shows the very pictures that training takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.config.schema import TrainConfig
from fasttrain.config.values import RandAugment
from fasttrain.data.crops import Resize
from fasttrain.data.loader import Loader
from fasttrain.errors import UserError
from fasttrain.inspection.preview import preview
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def config(shard_folder):
    return TrainConfig(
        data=shard_folder, image_size=32, batch_size=10, workers=0, device="cpu", loader="torchvision", seed=5
    )


def crops(shards: ShardSet, epoch: int):
    """Crops uint8 [n, 32, 32, 3], labels and ids of the first 20 samples, as `config` has them."""
    ids = shards.ids("train")
    loader = TorchvisionLoader(shards, ids, LoaderSettings(10, 32, Crop(), seed=5, limit_batches=2))
    loader.set_epoch(epoch)
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


@pytest.mark.slow
def test_the_first_photographs_of_the_epoch_with_their_classes(config, shard_folder):
    shards = ShardSet.open(shard_folder)
    images, labels, _ = crops(shards, epoch=3)
    seen = preview(config, epoch=3, count=14)
    assert (seen.pictures["torchvision"] == images[:14].numpy()).all()
    assert seen.captions == [shards.classes[label] for label in labels[:14].tolist()]
    assert not (preview(config, count=14).pictures["torchvision"] == images[:14].numpy()).all(), "another epoch"


def test_augmented_and_mixed_as_a_training_step_does_it(config, shard_folder):
    settings = {"rand_augment": "n2-m9", "random_erasing": 0.5, "mixup": 0.4, "cutmix": 1.0}
    shards = ShardSet.open(shard_folder)
    seen = preview(TrainConfig(**{**config.model_dump(exclude_unset=True), **settings}), count=20)
    images, labels, ids = crops(shards, epoch=0)
    augment = BatchAugment(
        shards.ids("train"), 5, MEAN, torch.device("cpu"), rand_augment=RandAugment(2, 9), random_erasing=0.5
    )
    mix, normalize = PlannedMixup(0.4, 1.0, len(shards.classes), 5), NormalizePixels(MEAN, STD, channels_last=True)
    for part in (slice(0, 10), slice(10, 20)):
        inputs = normalize(augment(images[part], ids[part].numpy(), 0))
        inputs, targets = mix(inputs, labels[part], ids[part].numpy(), 0)
        pixels = ((inputs.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN)) * 255).round()
        assert np.abs(pixels.numpy() - seen.pictures["torchvision"][part]).max() <= 1
        for caption, target in zip(seen.captions[part], targets, strict=True):
            assert caption.split("\n")[0].split(" ")[0] == shards.classes[int(target.argmax())]
    assert any("%" in caption for caption in seen.captions)


@pytest.mark.slow
def test_other_splits_are_seen_as_in_evaluation(config, shard_folder):
    changed = {
        **config.model_dump(exclude_unset=True),
        "eval_size": 48,
        "resize_mode": "squash",
        "rand_augment": "n2-m9",
    }
    seen = preview(TrainConfig(**changed), split="val", count=7)
    with Loader(shard_folder, split="val", crop=Resize(48), loader="torchvision", workers=0, batch_size=7) as loader:
        images, labels = next(iter(loader))
    assert (seen.pictures["torchvision"] == images.numpy()).all()
    assert seen.captions == [ShardSet.open(shard_folder).classes[label] for label in labels.tolist()]
    with pytest.raises(UserError, match="split = 'vall' is not one of train, val, test, all"):
        preview(config, split="vall")


@pytest.mark.slow
def test_loaders_side_by_side(config):
    seen = preview(config, count=6, compare=["native", "dali", "ffcv", "torchvision"])
    assert seen.pictures.keys() | seen.unavailable.keys() == {"native", "dali", "ffcv", "torchvision"}
    assert seen.differences["torchvision"].mean == 0
    for name, each in seen.differences.items():
        assert seen.pictures[name].shape == (6, 32, 32, 3)
        assert each.mean <= each.worst < 4 and (each.mean > 0 or name == "torchvision")
    assert all(seen.unavailable.values())


def test_unavailable_loaders_are_named_and_fatal_only_where_none_is_left(photographs, config, tmp_path):
    convert(photographs, tmp_path / "raw", workers=1, progress=False, raw=True, max_size=48)
    raw = TrainConfig(**{**config.model_dump(exclude_unset=True), "data": tmp_path / "raw"})
    seen = preview(raw, count=4, compare=["dali", "torchvision"])
    assert list(seen.pictures) == ["torchvision"]
    assert "these shards hold pixels" in seen.unavailable["dali"]
    with pytest.raises(UserError, match="none of these loaders can run here: dali: these shards hold pixels"):
        preview(raw, count=4, compare=["dali"])
    with pytest.raises(UserError, match="did you mean 'native'"):
        preview(raw, count=4, compare=["nativ"])


@pytest.mark.slow
def test_the_command_writes_the_sheet_and_says_how_far_loaders_differ(shard_folder, tmp_path, cli):
    sheet = tmp_path / "sheet.png"
    line = ["preview", "--data", shard_folder, "--image-size", 120, "--workers", 0, "--device", "cpu", "--out", sheet]
    code, out, error = cli(*line, "--compare", "torchvision,native", "--count", 3)
    assert code == 0, error
    assert "3 photographs" in out and str(sheet) in out and "mean difference" in out
    assert Image.open(sheet).height > 2 * 120
    code, out, _ = cli(*line, "--count", 5, "--loader", "torchvision")
    assert code == 0 and "torchvision, as asked" in out
    code, _, error = cli(*line[:-1], tmp_path / "sheet.gif")
    assert code == 2 and error.count("\n") == 1
    code, _, error = cli(*line, "--model", "mobilenetv2_1000")
    assert code == 2 and "did you mean" in error
