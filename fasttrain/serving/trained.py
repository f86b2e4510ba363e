"""A trained model as the service takes it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.data.crops import evaluation_crop
from fasttrain.data.photograph import Unreadable, decode_photograph
from fasttrain.evaluation.predict import Predictor
from fasttrain.photos.pictures import BrokenPhoto


class TrainedModel:
    """A `Predictor`, shown files from memory."""

    explains = False

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        spec = predictor.spec
        self.name, self.classes, self.multi_label = spec.name, spec.classes, spec.multi_label
        self._crop = evaluation_crop(spec.geometry)
        self._thresholds = np.asarray(spec.thresholds or [0.5] * len(spec.classes))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        try:
            return decode_photograph(data, self._crop).numpy()
        except Unreadable as error:
            raise BrokenPhoto(str(error)) from None

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        predictor = self._predictor
        with torch.inference_mode():
            images = predictor._preprocess(torch.from_numpy(pixels).to(predictor._device))
            logits = predictor._model(images).float()
            likely = logits.sigmoid() if self.multi_label else (logits / predictor.spec.temperature).softmax(dim=1)
            return likely.cpu().numpy()

    def chosen(self, probabilities: NDArray[np.float32], top_k: int) -> list[int]:
        order = np.argsort(-probabilities, kind="stable")
        if self.multi_label:
            return [int(label) for label in order if probabilities[label] >= self._thresholds[label]]
        return [int(label) for label in order[:top_k]]

    def heat_map(self, pixels: NDArray[np.uint8], label: int) -> bytes:
        raise NotImplementedError
