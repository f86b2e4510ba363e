"""RandAugment's operations on pixels and on geometry, for a batch with a parameter for each sample.

Every function takes uint8 [n, H, W, 3] and returns a new tensor of the same kind; n may be any number above 0.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fasttrain.augment.color import as_bytes

if TYPE_CHECKING:
    import torch


def sharpness(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Pillow's and torchvision's `adjust_sharpness`: 0 blurs, 1 changes nothing. `factors` is float32 [n]."""
    # Three values a pixel lie side by side, so a neighbour is 3 further on. Sums of whole numbers are exact.
    pixels = images.flatten(2).float()
    inner = pixels[:, 1:-1, 3:-3]
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    # A kernel of ones with a 5 in the middle, over 13.
    blurred = (rows[..., :-6] + rows[..., 3:-3] + rows[..., 6:]).add_(inner * 4).div_(13).round_()
    inner += blurred.sub_(inner).mul_((1 - factors).view(-1, 1, 1))
    return as_bytes(pixels).view(images.shape)


def posterize(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Keeps the bits of each sample's mask, [n], 0..255."""
    import torch

    return images & masks.to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Inverts what is at or above each sample's threshold, float32 [n], grey levels 0..255."""
    import torch

    return torch.where(images >= thresholds.ceil().to(torch.uint8).view(-1, 1, 1, 1), 255 - images, images)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretches each sample's channels to 0..255; a channel of one value stays as it is."""

    pixels = images.flatten(1, 2)
    low, high = (each.float().view(-1, 1, 1, 3) for each in pixels.aminmax(dim=1))
    spread = high - low
    flat = spread == 0
    scale = (255 / spread).masked_fill_(flat, 1.0)
    return as_bytes(images.float().sub_(low.masked_fill_(flat, 0.0)).mul_(scale))


def equalize(images: torch.Tensor) -> torch.Tensor:
    """torchvision's `equalize`, which is Pillow's, on each channel of each sample."""
    from torchvision.transforms.v2 import functional

    return functional.equalize(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


@cache
def _centres(side: int, device: torch.device) -> torch.Tensor:
    """Return where the middles of `side` pixels in a row lie between -1 and 1, float32 [side]."""
    import torch

    return ((torch.arange(side) * 2 + 1) / side - 1).to(device)


def affine(images: torch.Tensor, matrices: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Warps each sample bilinearly; what comes from outside is `fill`, float32 [3], grey levels.

    `matrices`, float32 [n, 2, 3], take (x, y, 1) of an output pixel to (x, y) in the input, in `grid_sample`'s
    coordinates: -1 and 1 are the outer edges of the image.
    """
    import torch.nn.functional as F

    height, width = images.shape[1:3]
    x = _centres(width, images.device).view(1, 1, -1, 1)
    y = _centres(height, images.device).view(1, -1, 1, 1)
    of_x, of_y, shift = matrices.view(-1, 1, 1, 2, 3).unbind(4)
    # affine_grid would multiply matrices, whose TF32 and batch-dependent kernels move pixels.
    grid = of_x * x + (of_y * y).add_(shift)
    centred = images.float().sub_(fill).permute(0, 3, 1, 2)
    warped = F.grid_sample(centred, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return as_bytes(warped.permute(0, 2, 3, 1) + fill).contiguous()
