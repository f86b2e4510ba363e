"""The moving average of the weights is timm's, bit for bit."""

from __future__ import annotations

import copy

import timm
import torch
from timm.utils import ModelEmaV3

from fasttrain.training.ema import Ema

DECAY = 0.9


def moved(model: torch.nn.Module) -> None:
    """Change the weights and the statistics of `model`, as a training step does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.randint(1, 9, tensor.shape, generator=generator).to(tensor.dtype))


def same(average: ModelEmaV3, expected: ModelEmaV3) -> bool:
    pairs = zip(average.module.state_dict().values(), expected.module.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def follow(model: torch.nn.Module) -> tuple[Ema, ModelEmaV3]:
    average, expected = Ema(model, decay=DECAY, use_warmup=True), ModelEmaV3(model, decay=DECAY, use_warmup=True)
    for step in range(1, 5):
        moved(model)
        for each in (average, expected):
            each.update(model, step=step)
    return average, expected


def test_it_equals_timms_with_buffers_and_counts():
    average, expected = follow(timm.create_model("mobilenetv2_035", num_classes=3))
    assert same(average, expected)
    assert int(average.module.bn1.num_batches_tracked) > 0


def test_weights_in_half_precision_are_rounded_as_timms():
    assert same(*follow(timm.create_model("mobilenetv2_035", num_classes=3).bfloat16()))


def test_loaded_weights_are_averaged_on():
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    average, expected = follow(model)
    saved = copy.deepcopy(average.module.state_dict())
    moved(model)
    for each in (average, expected):
        each.module.load_state_dict(saved)
        each.update(model, step=7)
    assert same(average, expected)


class Counter(torch.nn.Module):
    """A module that puts a new tensor in its buffer's place in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.tied = self.weight
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self) -> None:
        self.seen = self.seen + 1
        self.scratch = self.scratch + 1


def test_a_tensor_that_takes_anothers_place_is_followed():
    model = Counter()
    average = Ema(model, decay=0.5)
    for _ in range(2):
        model()
        average.update(model)
    assert average.module.seen.tolist() == [1.25, 1.25]  # half-way to 1, then to 2
    assert average.module.scratch.tolist() == [0.0, 0.0], "what is not saved is not averaged"


def test_a_weight_that_two_names_share_is_averaged_once():
    model = Counter()
    average = Ema(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    average.update(model)
    assert average.module.weight.tolist() == [2.0, 2.0]
