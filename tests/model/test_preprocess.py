"""NormalizePixels: torchvision's numbers, in either memory format."""

from __future__ import annotations

import torch

from fasttrain.model.preprocess import NormalizePixels


def test_normalize_is_torchvisions():
    from torchvision.transforms.v2 import functional as F

    pixels = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = F.normalize(pixels.permute(0, 3, 1, 2).float() / 255, list(mean), list(std))
    for channels_last in (True, False):
        made = NormalizePixels(mean, std, channels_last=channels_last)(pixels)
        torch.testing.assert_close(made, expected, atol=2e-6, rtol=1e-5)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert made.is_contiguous(memory_format=layout)
