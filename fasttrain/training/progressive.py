"""Progressive resizing: small pictures first, as FFCV's ImageNet recipe trains (Leclerc et al., CVPR 2023)."""

from __future__ import annotations

from fasttrain.config.schema import TrainConfig
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


def side_of_epoch(config: TrainConfig, epoch: int) -> int:
    """Return the side in px of the pictures that a run trains on in `epoch`, from 0.

    Pictures grow over all epochs. Under `minutes` those of the head don't count, as they see features only.
    """
    if config.progressive is None:
        return config.image_size
    head = 0 if config.minutes is None else config.head_epochs
    return progressive_side(config.progressive, max(epoch - head, 0), config.epochs - head)
