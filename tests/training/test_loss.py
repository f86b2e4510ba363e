"""Focal loss against its definition and against cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import CrossEntropyLoss

from fasttrain.config.schema import TrainConfig
from fasttrain.training.head_solver import solve_head
from fasttrain.training.loss import FocalLoss, make_criterion

WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5])
SMOOTHING = 0.1


def drawn(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels and mixed targets."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, 4, generator=generator)
    mixed = torch.rand(count, 4, generator=generator)
    return logits, torch.arange(count) % 4, mixed / mixed.sum(1, keepdim=True)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, SMOOTHING])
@pytest.mark.parametrize("mixes", [False, True])
def test_with_gamma_0_it_is_cross_entropy(mixes, smoothing, weights, reduction):
    logits, labels, mixed = drawn()
    ours, theirs = FocalLoss(0.0, weights, smoothing), CrossEntropyLoss(weights, label_smoothing=smoothing)
    ours.reduction = theirs.reduction = reduction
    targets = mixed if mixes else labels
    torch.testing.assert_close(ours(logits, targets), theirs(logits, targets))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_of_the_paper(gamma):
    logits, labels, _ = drawn()
    p = logits.softmax(1)[torch.arange(len(labels)), labels]
    expected = (1 - p) ** gamma * -p.log()
    torch.testing.assert_close(FocalLoss(gamma)(logits, labels), expected.mean())
    weighted = (WEIGHTS[labels] * expected).sum() / WEIGHTS[labels].sum()
    torch.testing.assert_close(FocalLoss(gamma, WEIGHTS)(logits, labels), weighted)


def test_a_mixed_target_is_the_mix_of_its_classes_losses():
    logits, labels, _ = drawn()
    focal, other = FocalLoss(2.0, WEIGHTS), (labels + 1) % 4
    one_hot = torch.nn.functional.one_hot
    mixed = 0.3 * one_hot(labels, 4) + 0.7 * one_hot(other, 4)
    soft = [focal(logits, one_hot(each, 4).float()) for each in (labels, other)]
    torch.testing.assert_close(focal(logits, mixed), 0.3 * soft[0] + 0.7 * soft[1])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_predictions_have_a_finite_gradient(gamma, dtype):
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = FocalLoss(gamma)(logits, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and loss.dtype == torch.float32


def test_the_settings_make_it_and_a_linear_probe_solves_it():
    settings = TrainConfig(loss="focal", focal_gamma=1.5, label_smoothing=SMOOTHING)
    criterion = make_criterion(settings, WEIGHTS)
    assert isinstance(criterion, FocalLoss)
    assert (criterion.gamma, criterion.label_smoothing, criterion.weight is WEIGHTS) == (1.5, SMOOTHING, True)
    assert type(make_criterion(TrainConfig(), None)) is CrossEntropyLoss
    features, labels, _ = drawn(40)
    head = torch.nn.Linear(4, 4)
    before = criterion(head(features), labels)
    assert solve_head(head, features, labels, criterion, 0.01) and criterion(head(features), labels) < before
