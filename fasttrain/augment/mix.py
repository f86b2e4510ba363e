"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899), drawn from the plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.loaders.philox import MIX_STREAM, random_words

if TYPE_CHECKING:
    import torch


class PlannedMixup:
    """Mixes batches as timm's `Mixup` does in mode "batch", with random numbers from the augmentation plan.

    A batch has one lambda (the share of the first image in a mixture), and sample i is mixed with sample n - 1 - i. If
    both alphas are above 0, a fair coin decides between Mixup and CutMix for each batch, as in timm. The draw depends
    only on (seed, epoch, id of the batch's first sample), so a resumed run repeats it. The partners depend on the
    batch, and so on its size and the number of ranks. The last sample of an odd batch stays unmixed.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, seed: int) -> None:
        """Set the alphas of Mixup and CutMix, at least one above 0, and the number of classes."""
        from timm.data.mixup import Mixup

        # CrossEntropyLoss does the label smoothing: for a mixed target the result is the mix of the smoothed ones.
        self._mixup = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes)
        self._classes, self._seed = classes, seed

    def __call__(
        self, inputs: torch.Tensor, labels: torch.Tensor, ids: NDArray[np.int64], epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `inputs`, float [n, 3, H, W], mixed in place, and targets, float32 [n, classes], whose rows sum to 1.

        `labels` is int64 [n], or float [n, classes] for multi-label data, on the device of `inputs`. `ids` is int64
        [n] on the host.
        """
        from timm.data.mixup import one_hot

        even = len(inputs) - len(inputs) % 2
        targets = labels.clone() if labels.ndim == 2 else one_hot(labels, self._classes)
        if even:
            words = random_words(self._seed, epoch, MIX_STREAM, 1, 4, first=int(ids[0]))
            with _numpy_seeded(words.view(np.uint32).ravel()):
                share = self._mixup._mix_batch(inputs[:even])
            targets[:even] = targets[:even] * share + targets[:even].flip(0) * (1.0 - share)
        return inputs, targets


@contextmanager
def _numpy_seeded(words: NDArray[np.uint32]) -> Iterator[None]:
    # timm draws from NumPy's global generator, whose state other code and checkpoints rely on.
    before = np.random.get_state()
    np.random.seed(words)
    try:
        yield
    finally:
        np.random.set_state(before)
