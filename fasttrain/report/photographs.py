"""Make the report's pictures: photographs that were classified wrongly, and the first batch as the model saw it.

They are thumbnails in data: URIs.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.data.crops import evaluation_crop
from fasttrain.data.photograph import decode_photograph
from fasttrain.errors import UserError
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
    from fasttrain.model.spec import ModelSpec
    from fasttrain.shards.reader import ShardSet

SIDE = 192  # px, the longest side of a thumbnail
QUALITY = 72  # JPEG quality of the thumbnails
WORST_CLASSES = 6
WRONG_A_CLASS = 6  # the most photographs per class
BATCH_SHOWN = 24  # the most pictures of the first batch


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data: URI, with its size in px.

    `pixelated`: whether the picture is so small that the page should enlarge it with sharp pixels.
    """

    uri: str
    width: int
    height: int
    pixelated: bool = False


@dataclass(frozen=True)
class Mistake:
    """A photograph that was classified wrongly.

    `file`: the path in the source or, if that is unknown, the key in the shards. `taken_for`: the predicted class; for
    a multi-label model, a phrase such as "no cat" or "cat missed". `probability`: the probability of that class, in [0,
    1]. `truth`: the true class's probability, or None if it is unknown or the model is multi-label. `map`: the
    class-activation map of the predicted class, or None if it wasn't requested.
    """

    picture: Picture
    file: str
    taken_for: str
    probability: float
    truth: float | None
    map: Picture | None = None


@dataclass(frozen=True)
class WorstClass:
    """A class with its mistakes.

    `wrong`: the number of photographs of the class that were classified wrongly; for a multi-label model, the number of
    wrong decisions about the class. `mistakes`: up to six of them, the most confident first.
    """

    result: ClassResult | SetClassResult
    wrong: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class BatchPicture:
    """A picture of a batch as the model saw it.

    `label`: the classes in the picture, with their shares after Mixup or CutMix.
    """

    picture: Picture
    label: str


def worst_classes(
    evaluation: Evaluation | SetEvaluation,
    predictions: Predictions | SetPredictions,
    shards: ShardSet,
    *,
    classes: int = WORST_CLASSES,
    maps: Callable[[int, int], Picture] | None = None,
) -> list[WorstClass]:
    """Return the classes with the lowest F1 that have mistakes, each with up to six photographs.

    For a multi-label model, these are the classes with the lowest average precision. `classes`: the greatest number of
    classes to return. `maps`: draws the class-activation map of a sample for a class (see `mistake_maps`); None for a
    multi-label model, or to draw no maps. Photographs in remote shards are only shown if the shard is on this machine.
    Raises UserError or OSError if a photograph can't be read.
    """
    if isinstance(evaluation, SetEvaluation) and isinstance(predictions, SetPredictions):
        return _worst_of_sets(evaluation, predictions, shards, classes)
    assert isinstance(evaluation, Evaluation) and isinstance(predictions, Predictions)
    wrong = predictions.top[:, 0] != predictions.labels
    local, file_of = _is_local(shards, predictions.ids), files_of(shards)
    names = [result.name for result in evaluation.classes]
    found = []
    for result in evaluation.worst(len(names)):
        rows = np.flatnonzero(wrong & (predictions.labels == names.index(result.name)))
        if not len(rows):
            continue
        most_confident = rows[np.argsort(-predictions.probabilities[rows, 0], kind="stable")]
        shown = [row for row in most_confident if local[row]][:WRONG_A_CLASS]
        mistakes = tuple(_mistake(predictions, int(row), names, shards, file_of, maps) for row in shown)
        found.append(WorstClass(result, len(rows), mistakes))
        if len(found) == classes:
            break
    return found


def _worst_of_sets(
    evaluation: SetEvaluation, predictions: SetPredictions, shards: ShardSet, classes: int
) -> list[WorstClass]:
    local, file_of, found = _is_local(shards, predictions.ids), files_of(shards), []
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
            for row in [row for row in furthest.tolist() if local[row]][:WRONG_A_CLASS]
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
) -> list[BatchPicture]:
    """Return pictures of the first batch of `epoch` on rank 0, cropped, flipped, augmented and mixed as in training.

    `settings`: the training loader's settings in that epoch. The list is empty if the shards aren't on this machine.
    Torchvision decodes the photographs, whichever loader the run used: all loaders follow the same plan, so only
    rounding differs.
    """
    import torch

    from fasttrain.loaders.torchvision import TorchvisionLoader, decode_planned

    loader = TorchvisionLoader(shards, shards.ids("train"), replace(settings, workers=0, device="cpu"))
    loader.set_epoch(epoch)
    first = loader.plan().batch(0, settings.batch_size, 0, settings.world_size)
    batch = _samples_to_show(first, shards, mixed=augmentation.mix is not None)
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
    pictures, shares = as_seen(pixels, labels, batch.ids, epoch, shards.classes, augmentation)
    pairs = zip(pictures, shares, strict=True)
    return [BatchPicture(_thumbnail_of_pixels(picture), _caption(each)) for picture, each in pairs]


def _samples_to_show(batch: Batch, shards: ShardSet, *, mixed: bool) -> Batch:
    """Return the samples of `batch` to show.

    Mixing pairs the first sample with the last, the second with the last but one, and so on. So samples from both ends
    are returned if `mixed`.
    """
    count = len(batch)
    even = count - count % 2
    if mixed and even:
        half = min(BATCH_SHOWN, even) // 2
        positions = np.r_[0:half, even - half : even]
        if not _is_local(shards, batch.ids[positions]).all():
            positions = positions[:0]
    else:
        positions = np.flatnonzero(_is_local(shards, batch.ids))[:BATCH_SHOWN]
    return batch.take(positions)


def _is_local(shards: ShardSet, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each sample's shard is on this machine, bool [n]. Shards that aren't are not fetched only for
    thumbnails."""
    numbers = shards.index["shard"][ids]
    if not shards.remote:
        return np.ones(len(ids), np.bool_)
    present = {
        number for number in set(numbers.tolist()) if (shards.folder / shards.manifest.shards[number].name).is_file()
    }
    return np.isin(numbers, list(present))


def mistake_maps(
    model: torch.nn.Module, spec: ModelSpec, shards: ShardSet, device: torch.device
) -> Callable[[int, int], Picture]:
    """Return a function that draws the class-activation map of a sample for a class.

    The function takes the sample's row number in the shards' index and the label of the class. Its picture shows the
    model's input with the map over it. Raises UserError for a multi-label model, and for raw shards, which hold pixels
    instead of files.
    """
    import torch

    from fasttrain.evaluation.explain import class_activation, overlay
    from fasttrain.model.preprocess import NormalizePixels

    if spec.multi_label:
        raise UserError("--explain: multi-label models have no class-activation maps; leave out --explain")
    if shards.raw:
        raise UserError("--explain: class-activation maps can't be drawn from raw shards; leave out --explain")
    crop = evaluation_crop(spec.geometry)
    preprocess = NormalizePixels(spec.mean, spec.std, channels_last=True).to(device)

    def draw(sample: int, label: int) -> Picture:
        pixels = decode_photograph(bytes(shards.bytes(sample)), crop)[None]
        inputs = preprocess(torch.from_numpy(pixels).to(device))
        return _thumbnail_of_pixels(overlay(pixels, class_activation(model, inputs, np.array([label])))[0])

    return draw


def _mistake(
    predictions: Predictions,
    row: int,
    names: Sequence[str],
    shards: ShardSet,
    file_of: FileOf,
    maps: Callable[[int, int], Picture] | None,
) -> Mistake:
    """Return the mistake at the position `row` of the predictions."""
    sample = int(predictions.ids[row])
    return Mistake(
        picture=thumbnail(shards, sample),
        file=file_of(sample),
        taken_for=names[predictions.top[row, 0]],
        probability=float(predictions.probabilities[row, 0]),
        truth=predictions.probability_of_truth(row),
        map=None if maps is None else maps(sample, int(predictions.top[row, 0])),
    )


def thumbnail(shards: ShardSet, sample: int) -> Picture:
    """Return the complete photograph of a sample, shrunk to at most 192 px."""
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
    """Return a thumbnail of `image`: a PNG if it is small, else a JPEG."""
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
    if all(share == 1 for _, share in shares):  # one class, or a label set that wasn't mixed with another
        return " + ".join(name for name, _ in shares) or "none"
    return " + ".join(f"{name} {share:.0%}".replace("%", "\u00a0%") for name, share in shares)
