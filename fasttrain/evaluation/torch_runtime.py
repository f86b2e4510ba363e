"""Run the model of a run folder or a checkpoint with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.interpolation import Interpolation
from fasttrain.device import choose_device
from fasttrain.errors import UserError
from fasttrain.evaluation.explain import class_activation
from fasttrain.evaluation.runtime import Runtime
from fasttrain.model.own import OwnModel
from fasttrain.model.preprocess import NormalizePixels


class TorchRuntime(Runtime):
    """A torch model in eval mode on its device."""

    exported = False

    def __init__(
        self, checkpoint: Path, *, model: str | OwnModel | None, device: str, interpolation: Interpolation | None
    ) -> None:
        """Load the model. The arguments are those of `open_runtime`."""
        trained, self.spec = load_trained(checkpoint, model, interpolation)
        self._device = choose_device(device)
        self._model = trained.to(self._device).to(memory_format=torch.channels_last)
        self._preprocess = NormalizePixels(self.spec.mean, self.spec.std, channels_last=True).to(self._device)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: torch.Tensor = self._model(self._inputs(pixels))
            return logits.float().cpu().numpy()

    def maps(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        return class_activation(self._model, self._inputs(pixels), labels)

    def embeddings(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        get_classifier: Any = getattr(self._model, "get_classifier", lambda: None)
        classifier = get_classifier()
        if not isinstance(classifier, torch.nn.Module):
            raise UserError(
                f"embeddings: {type(self._model).__name__} has no get_classifier(); "
                "give a model that has one, such as timm's"
            )
        seen: list[torch.Tensor] = []
        hook = classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            logits = self.logits(pixels)
        finally:
            hook.remove()
        return seen[-1].flatten(1).float().cpu().numpy(), logits

    def _inputs(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        inputs: torch.Tensor = self._preprocess(torch.from_numpy(pixels).to(self._device))
        return inputs
