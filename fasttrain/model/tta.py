"""Test-time augmentation: average a model's logits for an image and for its mirror image."""

from __future__ import annotations

import torch


class FlipAveraged(torch.nn.Module):
    """Averages the logits of `model` for an image and for its mirror image, as FFCV's ImageNet recipe does.

    The input is float [n, 3, H, W], the output float [n, classes].
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Copy them, because the second run of a CUDA graph overwrites the logits of the first.
        logits: torch.Tensor = self.model(images).clone()
        return (logits + self.model(images.flip(3))) / 2
