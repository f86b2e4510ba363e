"""The training losses: cross-entropy or focal loss, and their binary versions for multi-label data."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fasttrain.config.groups import OptimizationSettings
from fasttrain.model.criterion import Criterion, SetCrossEntropy


def make_criterion(
    settings: OptimizationSettings, class_weights: torch.Tensor | None, *, multi_label: bool = False
) -> Criterion:
    """Return the loss that `settings` ask for.

    `class_weights`, float32 [classes], weigh the classes. For multi-label data they are the loss's `pos_weight`.
    """
    if multi_label and settings.loss == "focal":
        return SetFocalLoss(settings.focal_gamma, class_weights, settings.label_smoothing)
    if multi_label:
        return SetCrossEntropy(class_weights, settings.label_smoothing)
    if settings.loss == "focal":
        return FocalLoss(settings.focal_gamma, class_weights, settings.label_smoothing)
    return torch.nn.CrossEntropyLoss(class_weights, label_smoothing=settings.label_smoothing)


class FocalLoss(torch.nn.CrossEntropyLoss):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002) over a softmax: cross-entropy with its easy terms scaled down.

    A class of probability p adds `share * weight * (1 - p) ** gamma * -log(p)`, where `share` is the class's part of
    the target after label smoothing, and `weight` its class weight. Targets, weights and reductions are those of
    CrossEntropyLoss. For gamma 0 both losses are equal.
    """

    def __init__(self, gamma: float, weight: torch.Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(weight, label_smoothing=label_smoothing)
        self.gamma = gamma

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits, float [n, classes], and targets, int64 [n] or float [n, classes]."""
        logs = input.float().log_softmax(dim=1)
        classes = logs.shape[1]
        shares = (F.one_hot(target, classes) if target.ndim == 1 else target).to(logs)
        shares = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        # For a gamma below 1 the power of 0 has no finite gradient.
        hard = (-torch.expm1(logs)).clamp_min(torch.finfo(logs.dtype).tiny) ** self.gamma
        terms = shares * hard * -logs
        if self.weight is not None:
            terms = terms * self.weight
        losses = terms.sum(dim=1)
        if self.reduction == "none":
            return losses
        if self.weight is None or target.ndim != 1:
            return losses.sum() / len(losses)
        return losses.sum() / self.weight[target].sum()


class SetFocalLoss(SetCrossEntropy):
    """Focal loss with a sigmoid for each class, as in the paper: `SetCrossEntropy` with its easy terms scaled down.

    A class of probability p adds `-log(p) * (1 - p) ** gamma * pos_weight` for a photograph of that class, and `-log(1
    - p) * p ** gamma` for any other. Other targets mix the two. The loss equals `SetCrossEntropy` for gamma 0.
    """

    def __init__(self, gamma: float, pos_weight: torch.Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(pos_weight, label_smoothing)
        self.gamma = gamma

    def decisions(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each class of each sample, float [n, classes], without reducing it."""
        # For a gamma below 1 the power of 0 has no finite gradient.
        there, absent = (
            -F.logsigmoid(each) * torch.sigmoid(-each).clamp_min(torch.finfo(each.dtype).tiny) ** self.gamma
            for each in (logits, -logits)
        )
        if self.pos_weight is not None:
            there = there * self.pos_weight
        return targets * there + (1 - targets) * absent
