"""RandAugment's operations on pixels and on geometry, for a batch with a parameter for each sample.

Every function takes uint8 [n, H, W, 3] and returns a new tensor of the same kind; n may be any number above 0.
"""

from __future__ import annotations

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
    import torch

    pixels = images.flatten(1, 2)
    low = pixels.amin(dim=1).float().view(-1, 1, 1, 3)
    spread = pixels.amax(dim=1).float().view(-1, 1, 1, 3) - low
    flat = spread == 0
    scale = torch.where(flat, 1.0, 255 / spread)
    return as_bytes(images.float().sub_(torch.where(flat, 0.0, low)).mul_(scale))


def equalize(images: torch.Tensor) -> torch.Tensor:
    """torchvision's `equalize`, which is Pillow's, on each channel of each sample."""
    from torchvision.transforms.v2 import functional

    return functional.equalize(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


def affine(images: torch.Tensor, matrices: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Warps each sample bilinearly; what comes from outside is `fill`, float32 [3], grey levels.

    `matrices`, float32 [n, 2, 3], take (x, y, 1) of an output pixel to (x, y) in the input, in `grid_sample`'s
    coordinates: -1 and 1 are the outer edges of the image.
    """
    import torch
    import torch.nn.functional as F

    height, width = images.shape[1:3]
    x = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    y = ((torch.arange(height, device=images.device) * 2 + 1) / height - 1).view(-1, 1)
    rows = matrices.view(-1, 2, 3, 1, 1)
    # affine_grid would multiply matrices, whose TF32 and batch-dependent kernels move pixels.
    grid = torch.stack([rows[:, row, 0] * x + (rows[:, row, 1] * y + rows[:, row, 2]) for row in (0, 1)], dim=-1)
    centred = images.float().sub_(fill).permute(0, 3, 1, 2)
    warped = F.grid_sample(centred, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return as_bytes(warped.permute(0, 2, 3, 1) + fill).contiguous()
