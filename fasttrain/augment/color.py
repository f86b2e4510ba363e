"""`ColorJitter` for a batch, with different factors for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's, ITU-R BT.601


def draw_factors(numbers: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Return factors for brightness, contrast and saturation, float32 [n, 3].

    They are uniform in [max(0, 1 - strength), 1 + strength]. `numbers` is float32 [n, 3] in [0, 1).
    """
    low = max(0.0, 1.0 - strength)
    return (low + numbers * np.float32(1.0 + strength - low)).astype(np.float32)


def color_jitter(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast and saturation by `factors`, float32 [n, 3], all >= 0. Return uint8 [n, H, W, 3].

    The blends are those of torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation`. Without
    intermediate rounding and clamping they commute. So all three are one affine map of a pixel and its grey value,
    rounded once, and their order, which torchvision draws at random, does not matter. A single factor gives
    torchvision's result within two grey levels (torchvision rounds down, twice). With several factors pixels also
    differ where torchvision clamps in between.
    """
    import torch

    count, height, width, _ = images.shape
    brightness, contrast, saturation = factors.unbind(1)
    _, less_contrast, less_saturation = (1 - factors).unbind(1)
    # Sums of integers are exact: a sample's mean, and so its pixels, don't depend on the batch or on the threads.
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
    """Return float `values` (overwritten) as uint8, rounded and clamped."""
    import torch

    return values.clamp_(0, 255).round_().to(torch.uint8)
