"""Progressive resizing: train on small images first, as in FFCV's ImageNet recipe (Leclerc et al., CVPR 2023)."""

from __future__ import annotations

from fasttrain.config.schema import TrainConfig
from fasttrain.config.values import Progressive

_GROWING = 0.8  # share of the epochs after which the final size is reached
_STEP = 32  # the stride of timm's models; few distinct shapes suit cuDNN and torch.compile


def progressive_side(progressive: Progressive, epoch: int, epochs: int) -> int:
    """Return the image side in px, a multiple of 32, of `epoch` (from 0) out of `epochs`.

    It grows linearly over the first 80 % of the epochs. The last epoch always has the final size.
    """
    first, last = progressive.first, progressive.last
    ramp = min(_GROWING * epochs, epochs - 1)
    share = min(epoch / ramp, 1.0) if ramp > 0 else 1.0
    return round((first + share * (last - first)) / _STEP) * _STEP


def side_of_epoch(config: TrainConfig, epoch: int) -> int:
    """Return the image side in px that a run trains on in `epoch`, from 0.

    Images grow over all epochs of the run. Under `minutes` they grow over the epochs after `head_epochs`, because the
    head only trains on features.
    """
    if config.progressive is None:
        return config.image_size
    head = 0 if config.minutes is None else config.head_epochs
    return progressive_side(config.progressive, max(epoch - head, 0), config.epochs - head)
