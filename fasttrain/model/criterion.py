"""The losses: cross-entropy if each photograph has one class, binary cross-entropy per class if it may have several."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class SetCrossEntropy(torch.nn.Module):
    """Binary cross-entropy with logits for multi-label targets, averaged over the classes.

    `pos_weight`: float [classes], multiplies the loss of the classes that a photograph has. `label_smoothing`: s in
    [0, 1), turns the target 0 into s / 2 and the target 1 into 1 - s / 2. Set the attribute `reduction` to "mean" (the
    default) for the mean over the samples, or to "none" for a loss per sample, float [n].
    """

    pos_weight: torch.Tensor | None

    def __init__(self, pos_weight: torch.Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        self.label_smoothing = label_smoothing
        self.reduction = "mean"

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of `logits` for `targets`, both float [n, classes]: a scalar, or [n] without reduction."""
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        each = self.decisions(logits.float(), targets.float()).mean(dim=1)
        return each.mean() if self.reduction == "mean" else each

    def decisions(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each class of each sample, float [n, classes], without an average.

        `targets`: float [n, classes]. They aren't smoothed here, unlike in `forward`.
        """
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.pos_weight, reduction="none")


Criterion = torch.nn.CrossEntropyLoss | SetCrossEntropy


def validation_criterion(*, multi_label: bool) -> Criterion:
    """Return the loss for validation, which has no class weights and no label smoothing, whatever the training loss.

    It is cross-entropy, or `SetCrossEntropy` if `multi_label`.
    """
    return SetCrossEntropy() if multi_label else torch.nn.CrossEntropyLoss()
