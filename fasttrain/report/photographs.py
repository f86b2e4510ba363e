"""The report's photographs: those that were got wrong, and the first batch as the model saw it, as small data: URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.label_sets import SetClassResult, SetEvaluation, SetPredictions
from fasttrain.evaluation.metrics import ClassResult, Evaluation
from fasttrain.report.as_seen import Shares, as_seen
from fasttrain.report.mistakes import FileOf, files_of

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from fasttrain.augment.augmentation import Augmentation
    from fasttrain.loaders.base import LoaderSettings
    from fasttrain.loaders.plan import Batch
    from fasttrain.shards.reader import ShardSet

SIDE = 192  # px, the longest side of a thumbnail
QUALITY = 72
WORST_CLASSES = 6
WRONG_A_CLASS = 6
BATCH_SHOWN = 24


@dataclass(frozen=True)
class Picture:
    """A thumbnail: its data: URI, its size in px, and whether it was enlarged, so that its pixels should stay seen."""

    uri: str
    width: int
    height: int
    pixelated: bool = False


@dataclass(frozen=True)
class Mistake:
    """A photograph, what it was taken for and how surely, in [0, 1]; `truth`: its own class's probability, if known."""

    picture: Picture
    file: str
    taken_for: str
    probability: float
    truth: float | None


@dataclass(frozen=True)
class WorstClass:
    """A class with its mistakes, the surest first; `wrong` counts them all."""

    result: ClassResult | SetClassResult
    wrong: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Seen:
    """A picture as the model saw it, and its label: several classes with their shares where they were mixed."""

    picture: Picture
    label: str


def worst_classes(
    evaluation: Evaluation | SetEvaluation,
    predictions: Predictions | SetPredictions,
    shards: ShardSet,
    *,
    classes: int = WORST_CLASSES,
) -> list[WorstClass]:
    """The classes of the lowest F1 that have mistakes, with photographs of up to six of each, read from the shards.

    Sets of classes have the lowest average precision first.

    Of remote shards only those count that lie on this machine. Raises UserError or OSError where they can't be read.
    """
    if isinstance(evaluation, SetEvaluation) and isinstance(predictions, SetPredictions):
        return _worst_of_sets(evaluation, predictions, shards, classes)
    assert isinstance(evaluation, Evaluation) and isinstance(predictions, Predictions)
    wrong = predictions.top[:, 0] != predictions.labels
    here, file_of = _here(shards, predictions.ids), files_of(shards)
    names = [result.name for result in evaluation.classes]
    found = []
    for result in evaluation.worst(len(names)):
        rows = np.flatnonzero(wrong & (predictions.labels == names.index(result.name)))
        if not len(rows):
            continue
        surest = rows[np.argsort(-predictions.probabilities[rows, 0], kind="stable")]
        shown = [row for row in surest if here[row]][:WRONG_A_CLASS]
        mistakes = tuple(_mistake(predictions, int(row), names, shards, file_of) for row in shown)
        found.append(WorstClass(result, len(rows), mistakes))
        if len(found) == classes:
            break
    return found


def _worst_of_sets(
    evaluation: SetEvaluation, predictions: SetPredictions, shards: ShardSet, classes: int
) -> list[WorstClass]:
    here, file_of, found = _here(shards, predictions.ids), files_of(shards), []
    names = [result.name for result in evaluation.classes]
    for result in evaluation.worst(len(names)):
        label = names.index(result.name)
        truth, probability = predictions.labels[:, label], predictions.probabilities[:, label]
        rows = np.flatnonzero(truth != (probability >= result.threshold))
        if not len(rows):
            continue
        furthest = rows[np.argsort(-np.abs(probability[rows] - result.threshold), kind="stable")]
        mistakes = tuple(
            Mistake(
                picture=thumbnail(shards, sample := int(predictions.ids[row])),
                file=file_of(sample),
                taken_for=f"{result.name} missed" if truth[row] else f"no {result.name}",
                probability=float(probability[row]),
                truth=None,
            )
            for row in [row for row in furthest.tolist() if here[row]][:WRONG_A_CLASS]
        )
        found.append(WorstClass(result, len(rows), mistakes))
        if len(found) == classes:
            break
    return found


def first_batch(
    shards: ShardSet,
    settings: LoaderSettings,
    augmentation: Augmentation,
    device: torch.device,
    epoch: int = 0,
) -> list[Seen]:
    """The beginning of the first batch of `epoch`, of rank 0: cropped, flipped, augmented and mixed by the plan.

    `settings` are the training loader's as the first epoch had them. The photographs are decoded by torchvision here,
    whichever loader the run had: they all follow one plan, so only roundings differ.
    """
    import torch

    from fasttrain.loaders.torchvision import TorchvisionLoader, decode_planned

    loader = TorchvisionLoader(shards, shards.ids("train"), replace(settings, workers=0, device="cpu"))
    loader.set_epoch(epoch)
    first = loader.plan().batch(0, settings.batch_size, 0, settings.world_size)
    batch = _shown(first, shards, mixed=augmentation.mix is not None)
    if not len(batch):
        return []
    sizes = shards.sizes()[batch.ids].tolist()
    pixels = torch.stack(
        [
            decode_planned(shards.bytes(int(sample)), batch, position, tuple(size) if shards.raw else None)
            for position, (sample, size) in enumerate(zip(batch.ids, sizes, strict=True))
        ]
    ).to(device)
    labels = torch.from_numpy(shards.labels(batch.ids)).to(device)
    seen, shares = as_seen(pixels, labels, batch.ids, epoch, shards.classes, augmentation)
    return [Seen(_thumbnail_of_pixels(picture), _caption(each)) for picture, each in zip(seen, shares, strict=True)]


def _shown(batch: Batch, shards: ShardSet, *, mixed: bool) -> Batch:
    """The samples of the batch to show. Mixing pairs the first with the last, so both ends of it are taken then."""
    count = len(batch)
    even = count - count % 2
    if mixed and even:
        half = min(BATCH_SHOWN, even) // 2
        where = np.r_[0:half, even - half : even]
        if not _here(shards, batch.ids[where]).all():
            where = where[:0]
    else:
        where = np.flatnonzero(_here(shards, batch.ids))[:BATCH_SHOWN]
    return batch.take(where)


def _here(shards: ShardSet, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which samples' shards lie on this machine: a thumbnail is not worth fetching one."""
    numbers = shards.index["shard"][ids]
    if not shards.remote:
        return np.ones(len(ids), np.bool_)
    present = {
        number for number in set(numbers.tolist()) if (shards.folder / shards.manifest.shards[number].name).is_file()
    }
    return np.isin(numbers, list(present))


def _mistake(predictions: Predictions, row: int, names: Sequence[str], shards: ShardSet, file_of: FileOf) -> Mistake:
    sample = int(predictions.ids[row])
    place = np.flatnonzero(predictions.top[row] == predictions.labels[row])
    return Mistake(
        picture=thumbnail(shards, sample),
        file=file_of(sample),
        taken_for=names[predictions.top[row, 0]],
        probability=float(predictions.probabilities[row, 0]),
        truth=float(predictions.probabilities[row, place[0]]) if len(place) else None,
    )


def thumbnail(shards: ShardSet, sample: int) -> Picture:
    """A sample's whole photograph, shrunk to at most 192 px."""
    from PIL import Image

    data = shards.bytes(sample)
    if shards.raw:
        height, width = (int(side) for side in shards.sizes()[sample])
        image = Image.frombytes("RGB", (width, height), bytes(data))
    else:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # libjpeg decodes at a fraction of the size
        image = image.convert("RGB")
    return _encoded(image)


def _thumbnail_of_pixels(pixels: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def _encoded(image: Image) -> Picture:
    image.thumbnail((SIDE, SIDE))
    small = max(image.size) < SIDE // 2
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    kind = "png" if small else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, *image.size, pixelated=small)


def _caption(shares: Shares) -> str:
    if all(share == 1 for _, share in shares):  # one class, or a set that isn't mixed with another
        return " + ".join(name for name, _ in shares) or "none"
    return " + ".join(f"{name} {share:.0%}".replace("%", "\u00a0%") for name, share in shares)
