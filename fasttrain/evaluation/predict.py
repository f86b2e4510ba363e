"""`predict`: the most likely classes of photographs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.interpolation import Interpolation
from fasttrain.config.location import user_path
from fasttrain.data.crops import evaluation_crop
from fasttrain.data.photograph import Unreadable, read_photograph
from fasttrain.device import choose_device, choose_workers
from fasttrain.errors import UserError
from fasttrain.evaluation.inputs import Refused, find_photographs
from fasttrain.model.own import OwnModel
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.model.tta import FlipAveraged

_Read = tuple[Path, "Future[torch.Tensor]"]


@dataclass(frozen=True)
class Prediction:
    """A photograph's likeliest classes, best first; `probabilities` are the softmax's, at the run's temperature.

    A multi-label model names the classes that reach their thresholds, with the probability of each; there may be none.
    """

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    multi_label: bool = False

    def to_dict(self) -> dict[str, Any]:
        top = [
            {"class": name, "probability": probability}
            for name, probability in zip(self.classes, self.probabilities, strict=True)
        ]
        return {"image": str(self.image), "classes" if self.multi_label else "top": top}


def predict(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    model: str | OwnModel | None = None,
    top_k: int = 5,
    device: str = "auto",
    batch_size: int = 64,
    tta: str = "none",
    interpolation: Interpolation | None = None,
    workers: int | None = None,
) -> list[Prediction]:
    """The `top_k` classes of each of `images`: files, folders or globs, in any format that `convert` takes.

    A multi-label model names every class that reaches its threshold, and `top_k` means nothing to it.

    Each is seen as in validation; `tta` "flip" averages the logits of it and its mirror image. interpolation:
    "bilinear" or "bicubic", by default what the model was trained with. `workers` threads decode (default: one a core).
    Raises UserError for a file that is absent or can't be decoded; `Predictor.stream` goes on after such a file, and
    holds no more than a batch.

    model: what makes the model, where the run's files can't: see `load_trained`.
    """

    def refuse(what: Refused) -> None:
        if what.broken:
            raise UserError(f"{what}; {'check the path' if what.missing else 'give photographs that open'}")

    images = [images] if isinstance(images, (str, Path)) else images
    predictor = Predictor(
        checkpoint,
        model=model,
        top_k=top_k,
        device=device,
        batch_size=batch_size,
        tta=tta,
        interpolation=interpolation,
        workers=workers,
    )
    return list(predictor.stream(images, refuse))


class Predictor:
    """A trained model that photographs are shown to, in batches."""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        model: str | OwnModel | None = None,
        top_k: int = 5,
        device: str = "auto",
        batch_size: int = 64,
        tta: str = "none",
        interpolation: Interpolation | None = None,
        workers: int | None = None,
    ) -> None:
        """The arguments are those of `predict`. Raises UserError if the model or the device does not exist."""
        if tta not in ("none", "flip"):
            raise UserError(f"tta = '{tta}' is not one of none, flip")
        trained, self.spec = load_trained(user_path(checkpoint), model, interpolation)
        self._device = choose_device(device)
        trained = FlipAveraged(trained).eval() if tta == "flip" else trained
        self._model = trained.to(self._device).to(memory_format=torch.channels_last)
        self._preprocess = NormalizePixels(self.spec.mean, self.spec.std, channels_last=True).to(self._device)
        self._top_k, self._batch_size = min(top_k, len(self.spec.classes)), batch_size
        self._thresholds = torch.tensor(self.spec.thresholds or [0.5] * len(self.spec.classes), dtype=torch.float64)
        self._threads = max(choose_workers(workers), 1)

    def stream(
        self, images: Iterable[str | Path], refused: Callable[[Refused], None] | None = None
    ) -> Iterator[Prediction]:
        """Predictions of files, folders and globs in their order, a batch at a time; the next one is decoded meanwhile.

        `refused` hears of each file that gives none.
        """
        refused = refused or (lambda what: None)
        paths: list[Path] = []
        pixels: list[torch.Tensor] = []
        for path, decoded in self._decoded(images, refused):
            try:
                pixels.append(decoded.result())
            except Unreadable as error:
                refused(Refused(str(path), str(error)))
                continue
            paths.append(path)
            if len(paths) == self._batch_size:
                yield from self._predict(paths, torch.stack(pixels))
                paths, pixels = [], []
        if paths:
            yield from self._predict(paths, torch.stack(pixels))

    def _decoded(self, images: Iterable[str | Path], refused: Callable[[Refused], None]) -> Iterator[_Read]:
        waiting: deque[_Read] = deque()
        crop = evaluation_crop(self.spec.geometry)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="fasttrain-decode") as pool:
            try:
                for found in find_photographs(images):
                    if isinstance(found, Refused):
                        refused(found)
                        continue
                    waiting.append((found, pool.submit(read_photograph, found, crop)))
                    if len(waiting) > self._batch_size + 2 * self._threads:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:
                pool.shutdown(cancel_futures=True)

    def _predict(self, paths: list[Path], pixels: torch.Tensor) -> Iterator[Prediction]:
        with torch.inference_mode():
            logits = self._model(self._preprocess(pixels.to(self._device)))
            if self.spec.multi_label:
                yield from self._seen(paths, logits.float().sigmoid().cpu())
                return
            likely = logits.topk(self._top_k).indices
            sure = (logits / self.spec.temperature).softmax(dim=1).gather(1, likely)
        for path, indices, probabilities in zip(paths, likely.tolist(), sure.tolist(), strict=True):
            yield Prediction(path, tuple(self.spec.classes[index] for index in indices), tuple(probabilities))

    def _seen(self, paths: list[Path], probabilities: torch.Tensor) -> Iterator[Prediction]:
        reached = probabilities.double() >= self._thresholds
        for path, row, there in zip(paths, probabilities, reached, strict=True):
            seen = sorted(there.nonzero().flatten().tolist(), key=lambda label: -float(row[label]))
            names = tuple(self.spec.classes[label] for label in seen)
            yield Prediction(path, names, tuple(float(row[label]) for label in seen), multi_label=True)
