"""The report's photographs: the right ones, as they lie in the shards, and as the model saw them."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain.augment.augmentation import Augmentation
from fasttrain.augment.batch import BatchAugment
from fasttrain.augment.mix import PlannedMixup
from fasttrain.config.values import RandAugment
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.metrics import ClassificationMeter, Evaluation
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.torchvision import TorchvisionLoader
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.report.mistakes import files_of
from fasttrain.report.photographs import Picture, first_batch, thumbnail, worst_classes
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet

MEAN, STD = (0.48, 0.45, 0.4), (0.22, 0.22, 0.22)


@pytest.fixture(scope="module")
def shards(shard_folder: Path) -> ShardSet:
    return ShardSet.open(shard_folder)


def pixels_of(picture: Picture) -> np.ndarray:
    head, data = picture.uri.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{image.format.lower()};base64" and image.size == (picture.width, picture.height)
    return np.asarray(image.convert("RGB"))


def said(shards: ShardSet, taken_for: dict[int, tuple[int, float]]) -> tuple[Evaluation, Predictions]:
    """Return predictions for the training split: right and 90 % sure, but for `taken_for`'s (class, probability)."""
    ids, labels = shards.ids("train"), shards.labels()[shards.ids("train")]
    first, sure = labels.copy(), np.full(len(ids), 0.9, np.float32)
    for sample, (label, probability) in taken_for.items():
        first[sample], sure[sample] = label, probability
    second = np.where(first == labels, (labels + 1) % 6, labels)
    meter = ClassificationMeter(6)
    meter.update(torch.nn.functional.one_hot(torch.from_numpy(first), 6).float(), torch.from_numpy(labels))
    evaluation = meter.compute(shards.classes)
    return evaluation, Predictions(ids, labels, np.stack([first, second], 1), np.stack([sure, (1 - sure) / 2], 1))


def test_the_worst_classes_and_their_surest_mistakes(shards: ShardSet) -> None:
    labels = shards.labels()[shards.ids("train")]
    bad, fair = np.flatnonzero(labels == 2)[:8], np.flatnonzero(labels == 4)[:2]
    wrong = {int(sample): (3, 0.5 + 0.01 * number) for number, sample in enumerate(bad)}
    wrong |= {int(fair[0]): (0, 0.3), int(fair[1]): (1, 0.8)}
    worst, second = worst_classes(*said(shards, wrong), shards)
    assert (worst.result.name, worst.wrong, len(worst.mistakes)) == (shards.classes[2], 8, 6)
    assert [each.probability for each in worst.mistakes] == pytest.approx([0.57, 0.56, 0.55, 0.54, 0.53, 0.52])
    assert [each.file for each in worst.mistakes] == [files_of(shards)(int(sample)) for sample in bad[:1:-1]]
    assert {each.taken_for for each in worst.mistakes} == {shards.classes[3]}
    assert worst.mistakes[0].truth == pytest.approx((1 - 0.57) / 2)
    assert [each.taken_for for each in second.mistakes] == [shards.classes[1], shards.classes[0]]
    shown = pixels_of(worst.mistakes[0].picture).astype(int)
    photograph = Image.open(io.BytesIO(shards.bytes(int(bad[7])))).convert("RGB")
    expected = np.asarray(photograph.resize(shown.shape[1::-1], Image.Resampling.LANCZOS), int)
    assert np.abs(shown - expected).mean() < 8
    assert len(worst_classes(*said(shards, wrong), shards, classes=1)) == 1
    assert worst_classes(*said(shards, {}), shards) == []


@pytest.mark.slow
def test_thumbnails_are_small_and_raw_shards_have_them_too(photographs: Path, shards: ShardSet, tmp_path: Path) -> None:
    convert(str(photographs), tmp_path / "raw", workers=1, progress=False, raw=True, max_size=100)
    raw = ShardSet.open(tmp_path / "raw")
    picture = thumbnail(raw, 3)
    height, width = raw.sizes()[3]
    expected = np.frombuffer(raw.bytes(3), np.uint8).reshape(height, width, 3).astype(int)
    assert np.abs(pixels_of(picture).astype(int) - expected).mean() < 8
    largest = max((thumbnail(shards, sample) for sample in range(20)), key=lambda each: len(each.uri))
    assert max(largest.width, largest.height) <= 192 and len(largest.uri) < 25_000


def in_shares(row: list[float], classes: list[str]) -> str:
    held = sorted(((share, label) for label, share in enumerate(row) if share), reverse=True)
    if len(held) == 1:
        return classes[held[0][1]]
    return " + ".join(f"{classes[label]} {100 * share:.0f}\u00a0%" for share, label in held)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.slow
def test_the_first_batch_is_what_the_model_saw(shards: ShardSet, mixed: bool) -> None:
    settings = LoaderSettings(batch_size=41, image_size=48, crop=Crop(), seed=5)
    cpu = torch.device("cpu")
    augment = BatchAugment(
        shards.ids("train"), 5, MEAN, cpu, color_jitter=0.4, rand_augment=RandAugment(2, 9), random_erasing=0.5
    )
    mix = PlannedMixup(0.4, 1.0, 6, 5) if mixed else None
    shown = first_batch(shards, settings, Augmentation(augment, mix), cpu)

    loader = TorchvisionLoader(shards, shards.ids("train"), settings)
    images, labels, ids = next(iter(loader))
    names = [shards.classes[label] for label in labels]
    images = augment(images, ids.numpy(), 0)
    where = list(range(24))
    if mix is not None:
        where = [*range(12), *range(28, 40)]
        inputs, targets = mix(NormalizePixels(MEAN, STD, channels_last=True)(images), labels, ids.numpy(), 0)
        images = (inputs.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN)).clamp(0, 1) * 255
        names = [in_shares(row, shards.classes) for row in targets.tolist()]
        assert any(" + " in name for name in names)
    assert [each.label for each in shown] == [names[each] for each in where]
    for each, position in zip(shown, where, strict=True):
        assert each.picture.pixelated
        np.testing.assert_allclose(pixels_of(each.picture), images[position].numpy(), atol=1)


def test_small_batches_and_ranks(shards: ShardSet) -> None:
    cpu = torch.device("cpu")
    one = LoaderSettings(batch_size=1, image_size=32, crop=Crop(), seed=5)
    whole = first_batch(shards, replace(one, batch_size=8), Augmentation(), cpu)
    assert len(whole) == 8
    assert first_batch(shards, replace(one, batch_size=4, world_size=2), Augmentation(), cpu) == whole[:4]
    alone = first_batch(shards, one, Augmentation(), cpu)
    assert len(alone) == 1 and first_batch(shards, one, Augmentation(None, PlannedMixup(1.0, 0.0, 6, 5)), cpu) == alone


def test_shards_behind_a_url_are_not_fetched_for_a_picture(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    remote = ShardSet.open(f"file://{shard_folder}")
    settings = LoaderSettings(batch_size=8, image_size=32, crop=Crop(), seed=5)
    there = np.flatnonzero(remote.index["shard"][remote.ids("train")] == 0)
    wrong = {int(sample): ((int(remote.labels()[sample]) + 1) % 6, 0.8) for sample in remote.ids("train")}
    nowhere = worst_classes(*said(remote, wrong), remote)
    assert [len(each.mistakes) for each in nowhere] == [0] * 6 and all(each.wrong for each in nowhere)
    assert first_batch(remote, settings, Augmentation(), torch.device("cpu")) == []
    remote.fetch(0)
    files = {files_of(remote)(int(sample)) for sample in there}
    shown = {mistake.file for each in worst_classes(*said(remote, wrong), remote) for mistake in each.mistakes}
    assert shown and shown <= files
    assert 0 < len(first_batch(remote, settings, Augmentation(), torch.device("cpu"))) < 8
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1
