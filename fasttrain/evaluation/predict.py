"""`predict`: the most likely classes of photographs."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.interpolation import Interpolation
from fasttrain.config.location import user_path
from fasttrain.cores import usable_cores
from fasttrain.data.crops import evaluation_crop
from fasttrain.data.photograph import Unreadable, decode_photograph, read_photograph
from fasttrain.errors import UserError, of_os
from fasttrain.evaluation.inputs import Refused, find_photographs
from fasttrain.evaluation.open_runtime import open_runtime
from fasttrain.files import atomic_write_bytes, make_folder

if TYPE_CHECKING:
    from fasttrain.model.own import OwnModel

UNKNOWN = "unknown"

_Decoding = tuple[Path, "Future[NDArray[np.uint8]]"]


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of a photograph.

    `image`: the photograph's file, or None if the photograph was given as bytes. `classes`: the names of the likeliest
    classes, the likeliest first. For a multi-label model, they are the classes that reach their thresholds, so there
    may be none. `probabilities`: in [0, 1], one per class in `classes`, at the model's temperature. `multi_label`:
    whether the model is multi-label. `unknown`: whether the greatest probability is below the reject threshold; None if
    there is no threshold. `explanation`: the file of the picture made by `explain`, or None. `embedding`: the input of
    the classifier, float32 [features], or None if it wasn't requested.
    """

    image: Path | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    multi_label: bool = False
    unknown: bool | None = None
    explanation: Path | None = None
    embedding: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def answer(self) -> str:
        """The likeliest class, or "unknown" if its probability is below the reject threshold.

        Raises IndexError for a multi-label prediction without classes.
        """
        return UNKNOWN if self.unknown else self.classes[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction for JSON, without the embedding."""
        top = [
            {"class": name, "probability": probability}
            for name, probability in zip(self.classes, self.probabilities, strict=True)
        ]
        image = {} if self.image is None else {"image": str(self.image)}
        answer = {} if self.unknown is None else {"answer": self.answer}
        picture = {} if self.explanation is None else {"explanation": str(self.explanation)}
        return {**image, **answer, "classes" if self.multi_label else "top": top, **picture}


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
    reject: float | None = None,
    explain: str | Path | None = None,
) -> list[Prediction]:
    """Return the likeliest classes of photographs, in the order of `images`.

    `checkpoint`: a run folder, its `model.safetensors`, a checkpoint, or an exported `.onnx` or `.xml` file. An
    exported file runs on the CPU and needs no torch. `images`: files, folders or glob patterns, with photographs in any
    format that `convert` accepts. They are cropped and resized as in validation. `model`: a model or the name of a
    function that makes it, if the run's files can't: see `load_trained`.

    `top_k`: the number of classes per photograph. A multi-label model ignores it and names every class that reaches its
    threshold. `tta`: "flip" averages the logits of each photograph and its mirror image; "none" uses the photograph
    only. `interpolation`: the resizing filter, "bilinear" or "bicubic", by default the one that the model was trained
    with. `workers`: the number of decoding threads, by default one per core.

    `reject`: answer "unknown" if the greatest probability is below this number in [0, 1]. The default is the
    `reject_threshold` in `model.json`, which `choose_rejection` stores; 0 never answers "unknown".

    `explain`: a folder to which a picture of each photograph is written: the model's input and, to its right, the
    class-activation map of the likeliest class. This needs the extra `explain`, a run folder and a convolutional model.

    Raises UserError for a file that is missing or can't be decoded. `Predictor.stream` skips such files, and keeps only
    one batch in memory.
    """

    def refuse(refused: Refused) -> None:
        if refused.broken:
            raise UserError(f"{refused}; {'check the path' if refused.missing else 'give photographs that open'}")

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
        reject=reject,
        explain=explain,
    )
    return list(predictor.stream(images, refuse))


class Predictor:
    """A trained model that classifies photographs. Torch runs a run folder; an exported file needs no torch.

    For files, use `stream`. A service uses its three steps: `read` for each photograph, in threads, `probabilities` for
    a batch of photographs, and `prediction` for each row.
    """

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
        reject: float | None = None,
        explain: str | Path | None = None,
        with_embeddings: bool = False,
    ) -> None:
        """Open the model. The arguments are those of `predict`.

        `with_embeddings`: whether predictions of `stream` have an `embedding`. Raises UserError if the model or the
        device isn't available, or if an argument is out of range.
        """
        if tta not in ("none", "flip"):
            raise UserError(f"tta = '{tta}' is not one of none, flip")
        if not 0 <= (reject or 0) <= 1:
            raise UserError(f"reject = {reject:g}: give a probability in [0, 1], such as 0.9")
        self._runtime = open_runtime(user_path(checkpoint), model=model, device=device, interpolation=interpolation)
        self.spec = self._runtime.spec
        self.classes = self.spec.classes
        if reject is not None and self.spec.multi_label:
            raise UserError(
                "reject: a multi-label model has a threshold for each class in model.json; leave reject out"
            )
        self.reject_threshold = self.spec.reject_threshold if reject is None else reject
        self._crop = evaluation_crop(self.spec.geometry)
        self._top_k, self._batch_size, self._tta = top_k, batch_size, tta
        self._thresholds = np.array(self.spec.thresholds or [0.5] * len(self.classes))
        self._explain = None if explain is None else user_path(explain)
        self._explained = 0
        self._with_embeddings = with_embeddings
        if with_embeddings and tta != "none":
            raise UserError("--embeddings can't be combined with --tta; leave one of them out")
        self._threads = max(usable_cores() if workers is None else workers, 1)

    @property
    def exported(self) -> bool:
        """Whether the model is an exported file. If so, it has no heat maps and no embeddings."""
        return self._runtime.exported

    def read(self, photograph: str | Path | bytes) -> NDArray[np.uint8]:
        """Decode a photograph, given as a path or as the bytes of a file, into the model's input size.

        Returns uint8 [size, size, 3]. Several threads may call this at the same time. Raises Unreadable if the
        photograph can't be decoded.
        """
        if isinstance(photograph, bytes):
            return decode_photograph(photograph, self._crop)
        return read_photograph(user_path(photograph), self._crop)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the calibrated probabilities, float64 [n, classes] in [0, 1].

        `pixels`: uint8 [n, size, size, 3], n results of `read`.
        """
        logits = self._runtime.logits(pixels)
        if self._tta == "flip":
            logits += self._runtime.logits(np.ascontiguousarray(pixels[:, :, ::-1]))
            logits /= 2
        return self._calibrated(logits)

    def embeddings(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return embeddings, float32 [n, features], and calibrated probabilities, float64 [n, classes].

        `pixels`: uint8 [n, size, size, 3], n results of `read`. An embedding is the input of the model's classifier.
        Raises UserError for an exported file, and for a model without timm's `get_classifier`.
        """
        embeddings, logits = self._runtime.embeddings(pixels)
        return embeddings, self._calibrated(logits)

    def _calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the sigmoid of multi-label logits, or else their softmax at the model's temperature."""
        precise = logits.astype(np.float64)
        if self.spec.multi_label:
            sigmoid: NDArray[np.float64] = np.exp(-np.logaddexp(0, -precise))
            return sigmoid
        scaled = precise / self.spec.temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        softmax: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return softmax

    def prediction(
        self, probabilities: NDArray[np.float64], image: Path | None = None, *, top_k: int | None = None
    ) -> Prediction:
        """Return the prediction for one photograph.

        `probabilities`: float64 [classes], one row of the result of `self.probabilities`. `image`: the photograph's
        file, if it has one. `top_k`: the number of classes to name; by default the one given to the predictor.
        """
        order = np.argsort(-probabilities, kind="stable")
        if self.spec.multi_label:
            order = order[probabilities[order] >= self._thresholds[order]]
        else:
            order = order[: top_k or self._top_k]
        names = tuple(self.classes[label] for label in order)
        unknown = bool(probabilities[order[0]] < self.reject_threshold) if self.reject_threshold else None
        return Prediction(image, names, tuple(probabilities[order].tolist()), self.spec.multi_label, unknown)

    def stream(
        self, images: Iterable[str | Path], refused: Callable[[Refused], None] | None = None
    ) -> Iterator[Prediction]:
        """Yield a prediction for each photograph that `images` name, in the order of `images`.

        `images`: files, folders and glob patterns. `refused` is called for each path without a prediction. Photographs
        of the next batch are decoded while the model works.
        """
        refused = refused or (lambda path: None)
        paths: list[Path] = []
        pixels: list[NDArray[np.uint8]] = []
        for path, decoded in self._decoded(images, refused):
            try:
                pixels.append(decoded.result())
            except Unreadable as error:
                refused(Refused(str(path), str(error)))
                continue
            paths.append(path)
            if len(paths) == self._batch_size:
                yield from self._predict(paths, np.stack(pixels))
                paths, pixels = [], []
        if paths:
            yield from self._predict(paths, np.stack(pixels))

    def _decoded(self, images: Iterable[str | Path], refused: Callable[[Refused], None]) -> Iterator[_Decoding]:
        """Yield each photograph's path and pixels, in order, while a batch of further ones is being decoded."""
        waiting: deque[_Decoding] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="fasttrain-decode") as pool:
            try:
                for found in find_photographs(images):
                    if isinstance(found, Refused):
                        refused(found)
                        continue
                    waiting.append((found, pool.submit(self.read, found)))
                    if len(waiting) > self._batch_size + 2 * self._threads:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:
                pool.shutdown(cancel_futures=True)

    def _predict(self, paths: list[Path], pixels: NDArray[np.uint8]) -> Iterator[Prediction]:
        embeddings: list[NDArray[np.float32] | None] = [None] * len(paths)
        if self._with_embeddings:
            rows, probabilities = self.embeddings(pixels)
            embeddings = list(rows)
        else:
            probabilities = self.probabilities(pixels)
        pictures = self._write_maps(paths, pixels, probabilities) if self._explain else [None] * len(paths)
        for path, row, picture, embedding in zip(paths, probabilities, pictures, embeddings, strict=True):
            yield replace(self.prediction(row, path), explanation=picture, embedding=embedding)

    def maps(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a class-activation map for each photograph, float32 [n, size, size] in [0, 1].

        `pixels`: uint8 [n, size, size, 3], n results of `read`. `labels`: int64 [n], the class to explain for each.
        Raises UserError for an exported file, for a model that isn't convolutional, or if the extra `explain` isn't
        installed.
        """
        return self._runtime.maps(pixels, labels)

    def _write_maps(
        self, paths: list[Path], pixels: NDArray[np.uint8], probabilities: NDArray[np.float64]
    ) -> list[Path | None]:
        """Write each photograph beside its map. Files are numbered, because photographs may share a name."""
        from PIL import Image

        from fasttrain.evaluation.explain import overlay

        assert self._explain is not None
        maps = overlay(pixels, self.maps(pixels, probabilities.argmax(axis=1)))
        written: list[Path | None] = []
        try:
            make_folder(self._explain)
            for path, pair in zip(paths, np.concatenate([pixels, maps], axis=2), strict=True):
                self._explained += 1
                Image.fromarray(pair).save(file := io.BytesIO(), "JPEG", quality=90)
                written.append(self._explain / f"{self._explained:05d}-{path.stem}.jpg")
                atomic_write_bytes(self._explain / f"{self._explained:05d}-{path.stem}.jpg", file.getvalue())
        except OSError as error:
            raise of_os(error, self._explain, "give --explain another folder") from error
        return written
