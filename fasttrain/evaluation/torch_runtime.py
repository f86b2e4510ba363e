"""Run folders and checkpoints, run by torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.interpolation import Interpolation
from fasttrain.device import choose_device
from fasttrain.evaluation.runtime import Runtime
from fasttrain.model.own import OwnModel
from fasttrain.model.preprocess import Normalise


class TorchRuntime(Runtime):
    """A model in eval mode on its device."""

    def __init__(
        self, checkpoint: Path, *, model: str | OwnModel | None, device: str, interpolation: Interpolation | None
    ) -> None:
        """See `open_runtime`."""
        trained, self.spec = load_trained(checkpoint, model, interpolation)
        self._device = choose_device(device)
        self._model = trained.to(self._device).to(memory_format=torch.channels_last)
        self._preprocess = Normalise(self.spec.mean, self.spec.std, channels_last=True).to(self._device)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: torch.Tensor = self._model(self._preprocess(torch.from_numpy(pixels).to(self._device)))
            return logits.float().cpu().numpy()
