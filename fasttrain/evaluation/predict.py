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

_Read = tuple[Path, "Future[NDArray[np.uint8]]"]


@dataclass(frozen=True)
class Prediction:
    """A photograph's likeliest classes, best first; `probabilities` are the softmax's, at the run's temperature.

    A multi-label model names the classes that reach their thresholds, with the probability of each; there may be none.
    image: the photograph's file, None where it was given as bytes. unknown: whether the likeliest class is less
    probable than the reject threshold; None where there is no threshold. explanation: the picture that `explain` asked
    for. embedding: the features that the classifier saw, [features], where they were asked for.
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
        """The likeliest class, or "unknown"."""
        return UNKNOWN if self.unknown else self.classes[0]

    def to_dict(self) -> dict[str, Any]:
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
    """The `top_k` classes of each of `images`: files, folders or globs, in any format that `convert` takes.

    checkpoint: a run folder, its `model.safetensors`, a checkpoint, or an exported `.onnx` or `.xml` file, which
    runs on the CPU and needs no torch.

    A multi-label model names every class that reaches its threshold, and `top_k` means nothing to it.

    Each is seen as in validation; `tta` "flip" averages the logits of it and its mirror image. interpolation:
    "bilinear" or "bicubic", by default what the model was trained with. `workers` threads decode (default: one a core).
    Raises UserError for a file that is absent or can't be decoded; `Predictor.stream` goes on after such a file, and
    holds no more than a batch.

    model: what makes the model, where the run's files can't: see `load_trained`.

    reject: the probability of the likeliest class below which the answer is "unknown", by default the
    `reject_threshold` in `model.json`, which `choose_rejection` stores; 0 answers always.

    explain: a folder for a picture of each photograph: how the model saw it and, to its right, the class-activation map
    of the likeliest class. It needs the extra `explain`, a run folder and a convolutional model.
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
        reject=reject,
        explain=explain,
    )
    return list(predictor.stream(images, refuse))


class Predictor:
    """A trained model that photographs are shown to. Torch runs a run folder, and an exported file needs no torch.

    A service calls `read` for each photograph, in threads, `probabilities` for a batch of them and `prediction` for
    each row. `stream` does all three for files.
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
        """Open the model. The arguments are those of `predict`; with_embeddings: `stream` gives each one's embedding.

        Raises UserError where there is no such model or device.
        """
        if tta not in ("none", "flip"):
            raise UserError(f"tta = '{tta}' is not one of none, flip")
        self._runtime = open_runtime(user_path(checkpoint), model=model, device=device, interpolation=interpolation)
        self.spec = self._runtime.spec
        self.classes = self.spec.classes
        if reject is not None and self.spec.multi_label:
            raise UserError("reject: a model of sets has a threshold for each class in model.json; leave it out")
        if not 0 <= (reject or 0) <= 1:
            raise UserError(f"reject = {reject:g}: give a probability in [0, 1], such as 0.9")
        self.reject_threshold = self.spec.reject_threshold if reject is None else reject
        self._crop = evaluation_crop(self.spec.geometry)
        self._top_k, self._batch_size, self._tta = top_k, batch_size, tta
        self._thresholds = np.array(self.spec.thresholds or [0.5] * len(self.classes))
        self._explain = None if explain is None else user_path(explain)
        self._explained = 0
        self._with_embeddings = with_embeddings
        if with_embeddings and tta != "none":
            raise UserError("--embeddings are of one view of each photograph; leave out --tta")
        self._threads = max(usable_cores() if workers is None else workers, 1)

    def read(self, photograph: str | Path | bytes) -> NDArray[np.uint8]:
        """Return a photograph, a path or the bytes of a file, as the model sees it: uint8 [size, size, 3].

        Threads may call it at the same time. Raises Unreadable.
        """
        if isinstance(photograph, bytes):
            return decode_photograph(photograph, self._crop)
        return read_photograph(user_path(photograph), self._crop)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the calibrated probabilities, [n, classes], of photographs that `read` gave, [n, size, size, 3]."""
        logits = self._runtime.logits(pixels)
        if self._tta == "flip":
            logits += self._runtime.logits(np.ascontiguousarray(pixels[:, :, ::-1]))
            logits /= 2
        return self._calibrated(logits)

    def embeddings(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the features that the classifier sees, [n, features], and the calibrated probabilities, [n, classes].

        Raises UserError for an exported file, and for a model without timm's `get_classifier`.
        """
        embeddings, logits = self._runtime.embeddings(pixels)
        return embeddings, self._calibrated(logits)

    def _calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = logits.astype(np.float64)
        if self.spec.multi_label:
            reached: NDArray[np.float64] = np.exp(-np.logaddexp(0, -wide))
            return reached
        scaled = wide / self.spec.temperature
        shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        likely: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return likely

    def prediction(
        self, probabilities: NDArray[np.float64], image: Path | None = None, *, top_k: int | None = None
    ) -> Prediction:
        """Return the answer to one photograph, of which `probabilities` is the row, [classes].

        top_k: the number of classes, in place of the predictor's own.
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
        """Predictions of files, folders and globs in their order, a batch at a time; the next one is decoded meanwhile.

        `refused` hears of each file that gives none.
        """
        refused = refused or (lambda what: None)
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

    def _decoded(self, images: Iterable[str | Path], refused: Callable[[Refused], None]) -> Iterator[_Read]:
        waiting: deque[_Read] = deque()
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
        """Return the class-activation maps, [n, size, size] in [0, 1], of a class of each photograph, int64 [n].

        Raises UserError where there are none: for an exported file, a model that isn't convolutional, or without the
        extra `explain`.
        """
        return self._runtime.maps(pixels, labels)

    def _write_maps(
        self, paths: list[Path], pixels: NDArray[np.uint8], probabilities: NDArray[np.float64]
    ) -> list[Path | None]:
        """Write the pictures that `explain` asks for; they are numbered, as photographs may share a name."""
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
