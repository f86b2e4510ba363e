"""Progressive resizing: small pictures first, as FFCV's ImageNet recipe trains (Leclerc et al., CVPR 2023)."""

from __future__ import annotations

from fasttrain.config.values import Progressive

_GROWING = 0.8  # share of the epochs after which the last size is reached
_STEP = 32  # every timm model's stride: a few static shapes for cuDNN and torch.compile


def progressive_side(progressive: Progressive, epoch: int, epochs: int) -> int:
    """Return the side in px of the pictures of `epoch`, from 0, of `epochs`: a multiple of 32.

    It grows linearly over the first 80 % of the epochs; the last epoch always has the last size.
    """
    first, last = progressive.first, progressive.last
    ramp = min(_GROWING * epochs, epochs - 1)
    share = min(epoch / ramp, 1.0) if ramp > 0 else 1.0
    return round((first + share * (last - first)) / _STEP) * _STEP
