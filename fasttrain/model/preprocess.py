"""Convert images to the model's input on the device."""

from __future__ import annotations

import torch


class NormalizePixels(torch.nn.Module):
    """Convert uint8 [n, H, W, 3] in 0..255 to `dtype` [n, 3, H, W], as (x / 255 - mean) / std.

    `mean` and `std` are for RGB in [0, 1]. With `channels_last` the result keeps the input's NHWC memory layout, so the
    conversion is a single pass.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        channels_last: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.dtype = dtype
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normal = torch.addcmul(self.shift, images.float(), self.scale).to(self.dtype).permute(0, 3, 1, 2)
        return normal if self.channels_last else normal.contiguous()
