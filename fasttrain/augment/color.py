"""`ColorJitter` on a batch, each sample with factors of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's, ITU-R BT.601


def draw_factors(numbers: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Factors float32 [n, 3] for brightness, contrast and saturation, uniform in [max(0, 1 - strength), 1 + strength].

    `numbers` is float32 [n, 3] in [0, 1).
    """
    low = max(0.0, 1.0 - strength)
    return (low + numbers * np.float32(1.0 + strength - low)).astype(np.float32)


def color_jitter(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3], brightness, contrast and saturation changed by `factors`, float32 [n, 3], all >= 0.

    The blends are torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation`. Without rounding and
    clamping in between these commute, so all three are one affine map of a pixel and its grey value, rounded once, and
    the order, which torchvision draws, does not matter. A single factor gives torchvision's result to two grey levels
    (it rounds down, twice); with several, pixels differ where torchvision clamps half-way.
    """
    import torch

    count, height, width, _ = images.shape
    brightness, contrast, saturation = factors.unbind(1)
    _, less_contrast, less_saturation = (1 - factors).unbind(1)
    # Whole numbers sum exactly: a sample's mean, and so its pixels, depend neither on the batch nor on the threads.
    # int32 holds the sum of 2,900 x 2,900 pixels.
    means = images.reshape(count, -1, 3).sum(dim=1, dtype=torch.int32).float() / (height * width)
    mean_grey = means[:, 0] * _LUMA[0] + means[:, 1] * _LUMA[1] + means[:, 2] * _LUMA[2]
    both = brightness * contrast
    of_pixel = (both * saturation).view(count, 1, 1, 1)
    of_grey = (both * less_saturation).view(count, 1, 1)
    offset = (brightness * less_contrast * mean_grey).view(count, 1, 1)

    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    red, green, blue = planes.unbind(1)
    shift = (red * _LUMA[0]).add_(green * _LUMA[1]).add_(blue * _LUMA[2]).mul_(of_grey).add_(offset)
    planes.mul_(of_pixel).add_(shift.unsqueeze(1)).clamp_(0, 255).round_()
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    result.permute(0, 3, 1, 2).copy_(planes)
    return result


def as_bytes(values: torch.Tensor) -> torch.Tensor:
    """float `values` (overwritten) as uint8, rounded and clamped."""
    import torch

    return values.clamp_(0, 255).round_().to(torch.uint8)
