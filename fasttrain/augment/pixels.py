"""RandAugment's pixel and geometry operations on a batch, with a parameter per sample.

Every function takes uint8 [n, H, W, 3], n > 0, and returns a new tensor of the same kind.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fasttrain.augment.color import as_bytes

if TYPE_CHECKING:
    import torch


def sharpness(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change the sharpness as Pillow and torchvision's `adjust_sharpness` do: 0 blurs, 1 changes nothing.

    `factors` is float32 [n].
    """
    # A pixel's three values are adjacent, so its neighbour's are 3 further on. Sums of integers are exact.
    pixels = images.flatten(2).float()
    inner = pixels[:, 1:-1, 3:-3]
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    # The kernel is all ones with a 5 in the middle, divided by 13.
    blurred = (rows[..., :-6] + rows[..., 3:-3] + rows[..., 6:]).add_(inner * 4).div_(13).round_()
    inner += blurred.sub_(inner).mul_((1 - factors).view(-1, 1, 1))
    return as_bytes(pixels).view(images.shape)


def posterize(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Keep only the bits of each value that are set in the sample's mask. `masks` are [n], in 0..255."""
    import torch

    return images & masks.to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Invert the values at or above the sample's threshold. `thresholds` are float32 [n], in grey levels 0..255."""
    import torch

    return torch.where(images >= thresholds.ceil().to(torch.uint8).view(-1, 1, 1, 1), 255 - images, images)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch the channels of each sample to 0..255. A channel with a single value is unchanged."""

    pixels = images.flatten(1, 2)
    low, high = (each.float().view(-1, 1, 1, 3) for each in pixels.aminmax(dim=1))
    spread = high - low
    flat = spread == 0
    scale = (255 / spread).masked_fill_(flat, 1.0)
    return as_bytes(images.float().sub_(low.masked_fill_(flat, 0.0)).mul_(scale))


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Apply torchvision's `equalize`, which is Pillow's, to each channel of each sample."""
    from torchvision.transforms.v2 import functional

    return functional.equalize(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


@cache
def _centres(side: int, device: torch.device) -> torch.Tensor:
    """Return the centres of `side` pixels in a row, scaled to -1..1, float32 [side]."""
    import torch

    return ((torch.arange(side) * 2 + 1) / side - 1).to(device)


def affine(images: torch.Tensor, matrices: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Warp each sample bilinearly. Areas from outside the image get `fill`, float32 [3], in grey levels.

    `matrices`, float32 [n, 2, 3], map (x, y, 1) of an output pixel to (x, y) in the input, in the coordinates of
    `grid_sample`: -1 and 1 are the outer edges of the image.
    """
    import torch.nn.functional as F

    height, width = images.shape[1:3]
    x = _centres(width, images.device).view(1, 1, -1, 1)
    y = _centres(height, images.device).view(1, -1, 1, 1)
    of_x, of_y, shift = matrices.view(-1, 1, 1, 2, 3).unbind(4)
    # affine_grid would use matrix multiplication, whose TF32 and batch-dependent kernels shift pixels.
    grid = of_x * x + (of_y * y).add_(shift)
    centred = images.float().sub_(fill).permute(0, 3, 1, 2)
    warped = F.grid_sample(centred, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return as_bytes(warped.permute(0, 2, 3, 1) + fill).contiguous()
