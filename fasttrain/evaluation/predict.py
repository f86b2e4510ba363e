"""`predict`: the most likely classes of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.loaders.plan import centre_boxes
from fasttrain.loaders.torchvision import decode_crop
from fasttrain.model.preprocess import Normalise
from fasttrain.photos.normalise import BrokenPhoto, normalise
from fasttrain.training.device import choose_device

_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """A photograph's likeliest classes, best first; `probabilities` are the softmax's, in [0, 1]."""

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        top = [
            {"class": name, "probability": probability}
            for name, probability in zip(self.classes, self.probabilities, strict=True)
        ]
        return {"image": str(self.image), "top": top}


def predict(
    checkpoint: str | Path, images: Sequence[str | Path], *, top_k: int = 5, device: str = "auto"
) -> list[Prediction]:
    """The `top_k` classes of each of `images`, any format that `convert` takes, seen as in validation.

    Raises UserError for a file that is absent or can't be decoded.
    """
    model, spec = load_trained(Path(checkpoint))
    where = choose_device(device)
    model = model.to(where).to(memory_format=torch.channels_last)
    preprocess = Normalise(spec.mean, spec.std, channels_last=True).to(where)
    predictions = []
    for start in range(0, len(images), _BATCH):
        paths = [Path(image) for image in images[start : start + _BATCH]]
        pixels = torch.stack([_read(path, spec.image_size) for path in paths])
        with torch.inference_mode():
            likely = model(preprocess(pixels.to(where))).softmax(dim=1).topk(min(top_k, len(spec.classes)))
        for path, indices, probabilities in zip(paths, likely.indices.tolist(), likely.values.tolist(), strict=True):
            names = tuple(spec.classes[index] for index in indices)
            predictions.append(Prediction(path, names, tuple(probabilities)))
    return predictions


def _read(path: Path, image_size: int) -> torch.Tensor:
    try:
        photo = normalise(path.read_bytes(), max_size=None, quality=95, cut="none", optimize=False)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give photographs") from None
    except BrokenPhoto as error:
        raise UserError(f"{path}: {error}; give photographs that open") from None
    box = centre_boxes(np.array([[photo.height, photo.width]], dtype=np.int32))[0]
    return decode_crop(photo.jpeg, box, False, (image_size, image_size))
