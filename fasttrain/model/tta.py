"""Test-time augmentation: what a model says of a picture and of its mirror image, averaged."""

from __future__ import annotations

import torch


class FlipAveraged(torch.nn.Module):
    """float [n, 3, H, W] to the mean of `model`'s logits, [n, classes], for it and its mirror image, as FFCV does."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Copied, as the second run of a CUDA graph writes where the first one's logits lie.
        logits: torch.Tensor = self.model(images).clone()
        return (logits + self.model(images.flip(3))) / 2
