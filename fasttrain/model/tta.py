"""Test-time augmentation: what a model says of a picture and of its mirror image, averaged."""

from __future__ import annotations

import torch


class FlipAveraged(torch.nn.Module):
    """float [n, 3, H, W] to the mean of `model`'s logits, [n, classes], for it and its mirror image, as FFCV does."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = (self.model(images) + self.model(images.flip(3))) / 2
        return mean
