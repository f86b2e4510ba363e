"""evaluate_model: predictions in order, modes put back, losses over samples and not over batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fasttrain.errors import UserError
from fasttrain.evaluation.evaluate import evaluate_model

NUM_CLASSES = 7


class Net(torch.nn.Module):
    """Dropout and BatchNorm give the mode away: in training mode both change the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(3, NUM_CLASSES)
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.modes.append(torch.is_inference_mode_enabled())
        return self.head(self.drop(self.norm(images).mean((2, 3))))


def preprocess(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def split() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return images, torch.randint(NUM_CLASSES, (50,), generator=generator), torch.arange(1000, 1050).flip(0)


def in_batches(split: tuple[torch.Tensor, ...], size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    yield from zip(*(part.split(size) for part in split), strict=True)


def run(model: Net, batches: Iterator[tuple[torch.Tensor, ...]], **options: object):  # type: ignore[no-untyped-def]
    return evaluate_model(
        model,
        batches,
        num_classes=NUM_CLASSES,
        device="cpu",
        preprocess=preprocess,
        criterion=torch.nn.CrossEntropyLoss(),
        **options,
    )


def test_batch_size_makes_no_difference(split: tuple[torch.Tensor, ...]) -> None:
    model = Net()
    whole, everything = run(model, in_batches(split, 50))
    pieces, predictions = run(model, in_batches(split, 16))
    images, labels, ids = split
    with torch.inference_mode():
        logits = model.eval()(preprocess(images))
    assert pieces.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    np.testing.assert_array_equal(predictions.ids, ids.numpy())
    np.testing.assert_array_equal(predictions.labels, labels.numpy())
    np.testing.assert_array_equal(predictions.top, everything.top)
    wanted = logits.softmax(1).topk(5)
    np.testing.assert_array_equal(predictions.top, wanted.indices.numpy())
    np.testing.assert_allclose(predictions.probabilities, wanted.values.numpy(), rtol=1e-5)
    assert pieces.top1 == pytest.approx((predictions.top[:, 0] == predictions.labels).mean())
    assert predictions.ids.dtype == predictions.labels.dtype == predictions.top.dtype == np.int64


def test_each_module_keeps_its_mode(split: tuple[torch.Tensor, ...]) -> None:
    model = Net().train()
    model.norm.eval()  # like the norms of a frozen block
    run(model, in_batches(split, 16))
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert model.modes == [True] * 4

    def broken() -> Iterator[tuple[torch.Tensor, ...]]:
        yield from in_batches(split, 16)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        run(model, broken())
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)


def test_autocast_is_entered_and_losses_stay_in_single_precision(split: tuple[torch.Tensor, ...]) -> None:
    entered = []

    @contextlib.contextmanager
    def autocast() -> Iterator[None]:
        entered.append(True)
        with torch.autocast("cpu", torch.bfloat16):
            yield

    _, predictions = run(Net(), in_batches(split, 25), autocast=autocast)
    assert len(entered) == 2
    assert predictions.probabilities.dtype == np.float32


def test_class_names_reach_the_result_and_an_empty_split_is_the_users(
    split: tuple[torch.Tensor, ...],
) -> None:
    names = [f"dish {number}" for number in range(NUM_CLASSES)]
    result, _ = run(Net(), in_batches(split, 16), classes=names)
    assert [each.name for each in result.classes] == names
    with pytest.raises(UserError, match="no photographs"):
        run(Net(), iter(()))
