"""Progressive resizing and flip test-time augmentation, in real runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fasttrain import evaluate, train
from fasttrain.config.values import Progressive
from fasttrain.errors import UserError
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.plan import Crop
from fasttrain.loaders.registry import LOADERS, loader_class
from fasttrain.model.tta import FlipAveraged
from fasttrain.shards.reader import ShardSet
from fasttrain.training.progressive import progressive_side
from tests.support.runs import SMALL, killed_after


def test_the_side_grows_linearly_to_the_last_fifth_in_steps_of_32():
    sides = [progressive_side(Progressive(128, 224), epoch, 10) for epoch in range(10)]
    assert sides == [128, 128, 160, 160, 192, 192, 192, 224, 224, 224]
    assert [progressive_side(Progressive(64, 96), epoch, 2) for epoch in range(2)] == [64, 96]
    assert progressive_side(Progressive(64, 96), 0, 1) == 96


@pytest.mark.parametrize("name", list(LOADERS))
@pytest.mark.slow
def test_a_loader_changes_its_size_between_epochs(name, shard_folder):
    """To the very pixels of a loader that was made with that size."""
    shards = ShardSet.open(shard_folder)
    kind = loader_class(name)
    if reason := kind.unavailable(shards, "cpu"):
        pytest.skip(reason)
    ids = shards.ids("train")[:20]

    def made(side: int) -> Any:
        return kind(shards, ids, LoaderSettings(8, side, Crop(), seed=3, workers=1))

    loader, other = made(32), made(64)
    try:
        assert {images.shape[1:3] for images, _, _ in loader} == {(32, 32)}
        loader.set_epoch(1)
        loader.set_image_size(64)
        other.set_epoch(1)
        for (ours, _, ids_ours), (theirs, _, ids_theirs) in zip(loader, other, strict=True):
            assert torch.equal(ours, theirs) and torch.equal(ids_ours, ids_theirs)
    finally:
        loader.close()
        other.close()


@pytest.mark.slow
def test_a_run_grows_evaluates_at_its_own_size_and_resumes_at_the_right_one(shard_folder, tmp_path):
    settings = {**SMALL, "image_size": 64, "progressive": "32:64", "epochs": 3, "deterministic": True, "track": False}
    settings |= {"save_every": 1, "batch_size": 32, "tta": "flip"}
    alone = train(data=shard_folder, out=tmp_path / "alone", **settings)
    assert [record["image_size"] for record in alone.history] == [32, 64, 64]
    with killed_after(lambda state: state["epoch"] == 1 and state["loader"]["samples"] > 0):
        train(data=shard_folder, out=tmp_path / "killed", **settings)
    resumed = train(resume="auto", out=tmp_path / "killed")
    assert [record["train_loss"] for record in resumed.history] == [record["train_loss"] for record in alone.history]
    assert resumed.history[-1]["val_loss"] == alone.history[-1]["val_loss"]
    plain, flipped = (
        evaluate(alone.folder, shard_folder, split="val", loader="torchvision", workers=0, device="cpu", tta=tta)
        for tta in ("none", "flip")
    )
    assert flipped.loss == pytest.approx(alone.evaluation.loss, rel=1e-4) and plain.loss != flipped.loss
    with pytest.raises(UserError, match="not one of none, flip"):
        evaluate(alone.folder, shard_folder, tta="both")


def test_flip_averages_the_logits_of_both_images():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 2))
    images = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(FlipAveraged(model)(images), (model(images) + model(torch.flip(images, [3]))) / 2)
    torch.testing.assert_close(FlipAveraged(model)(images.flip(3)), FlipAveraged(model)(images))


def test_tta_of_a_model_that_writes_each_output_where_the_last_one_lay():
    """A model under CUDA graphs writes each output where the last one was."""
    output = torch.empty(2, 3)
    images = torch.randn(2, 3, 4, 4)
    expected = (images[:, :, 0, 0] + images[:, :, 0, -1]) / 2
    assert torch.equal(FlipAveraged(lambda given: output.copy_(given[:, :, 0, 0]))(images), expected)
