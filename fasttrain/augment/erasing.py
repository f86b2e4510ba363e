"""Random erasing (Zhong et al. 2020, arXiv:1708.04896)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

SCALE = (0.02, 1 / 3)
RATIO = (0.3, 3.3)


def draw_boxes(numbers: NDArray[np.float32], probability: float, height: int, width: int) -> NDArray[np.int64]:
    """Return boxes to erase, int64 [n, 4], (top, left, bottom, right) in pixels; empty for samples that are not
    erased.

    `numbers` is float32 [n, 5] in [0, 1). As in timm's `RandomErasing`, a box covers 2 % to 33 % of the image
    (uniform), and its aspect ratio is 0.3 to 3.3 (log-uniform). If a side is longer than the image's (in 0.4 % of
    the draws), this function shortens the side, while timm draws again.
    """
    apply, area, ratio, top, left = numbers.astype(np.float64).T
    root_area = np.sqrt((SCALE[0] + area * (SCALE[1] - SCALE[0])) * height * width)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    root_ratio = np.exp((low + ratio * (high - low)) / 2)
    erased = apply < probability
    box_height = np.where(erased, np.minimum(np.rint(root_area * root_ratio), height), 0)
    box_width = np.where(erased, np.minimum(np.rint(root_area / root_ratio), width), 0)
    top = np.floor(top * (height - box_height + 1))
    left = np.floor(left * (width - box_width + 1))
    return np.stack([top, left, top + box_height, left + box_width], axis=1).astype(np.int64)


def erase(images: torch.Tensor, boxes: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Return uint8 [n, H, W, 3] with each sample's box, int64 [n, 4] as from `draw_boxes`, set to `fill`, uint8 [3]."""
    import torch

    height, width = images.shape[1:3]
    y = torch.arange(height, device=images.device).view(1, -1, 1, 1)
    x = torch.arange(width, device=images.device).view(1, 1, -1, 1)
    top, left, bottom, right = boxes.view(-1, 4, 1, 1, 1).unbind(1)
    inside = ((y >= top) & (y < bottom)) & ((x >= left) & (x < right))
    return torch.where(inside, fill, images)
