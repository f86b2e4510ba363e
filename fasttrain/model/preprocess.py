"""Convert images to the model's input on the device."""

from __future__ import annotations

import torch


class NormalizePixels(torch.nn.Module):
    """Convert pixels x, uint8 [n, H, W, 3], to the model's input (x / 255 - mean) / std, `dtype` [n, 3, H, W].

    `mean`, `std`: three numbers for R, G and B in [0, 1]. `channels_last`: keep the memory layout of the pixels (NHWC),
    so that the conversion is a single pass. Otherwise the result is contiguous (NCHW).
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
