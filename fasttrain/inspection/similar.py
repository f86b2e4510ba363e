"""`similar`: find the photographs of a data set that a model sees as most similar to a given one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import user_path
from fasttrain.config.values import CacheSize
from fasttrain.data.crops import evaluation_crop
from fasttrain.data.photograph import Unreadable
from fasttrain.data.splits import check_split, split_ids
from fasttrain.errors import UserError
from fasttrain.evaluation.predict import Predictor
from fasttrain.evaluation.splits import batches
from fasttrain.report.contact_sheet import contact_sheet, save_sheet
from fasttrain.report.mistakes import FileOf, files_of
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.format import ALL, SPLITS
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings


@dataclass(frozen=True)
class Neighbour:
    """A photograph of the data set that is similar to a given one.

    `index`: its row in the index of the shards. `file`: its path in the source. `similarity`: the cosine of the angle
    between the embeddings of the two photographs, 1 for the same photograph.
    """

    index: int
    file: str
    split: str
    classes: tuple[str, ...]
    similarity: float


@dataclass(frozen=True)
class Similar:
    """A given photograph and its neighbours, the most similar first.

    `pixels`: the given photograph and then each neighbour as the model sees them, uint8 [1 + n, H, W, 3].
    """

    image: Path
    neighbours: tuple[Neighbour, ...]
    pixels: NDArray[np.uint8] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {"image": str(self.image), "neighbours": [asdict(each) for each in self.neighbours]}


def similar(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    data: str | Path = "shards",
    *,
    count: int = 12,
    split: str = ALL,
    device: str = "auto",
    batch_size: int = 64,
    loader: str = "auto",
    workers: int | None = None,
    cache_size: str | CacheSize | None = None,
) -> list[Similar]:
    """Find the `count` photographs of `data` that are most similar to each of `images`: by the cosine of embeddings.

    `checkpoint`: a run folder or a checkpoint, whose model computes the embeddings. `data`: shards, or a folder of
    photographs, which is converted once. `split`: "train", "val", "test" or "all". The data is read once for all
    `images`, and only one batch of embeddings is in memory at a time. Return one result for each of `images`, in the
    same order. Raises UserError if a photograph or the data can't be read.
    """
    check_split(split)
    predictor = Predictor(checkpoint, device=device)
    paths = [user_path(each) for each in ([images] if isinstance(images, (str, Path)) else images)]
    given = np.stack([_read(predictor, path) for path in paths])
    shards = ShardSet.open(ensure_shards(data, ShardSettings()), CacheSize.of(cache_size))
    ids = split_ids(shards, split, data)
    wanted = _unit(predictor.embeddings(given)[0])
    scores = np.empty((len(paths), 0), np.float32)
    nearest = np.empty((len(paths), 0), np.int64)
    seen: dict[int, NDArray[np.uint8]] = {}
    crop = evaluation_crop(predictor.spec.geometry)
    loading = batches(shards, ids, crop, batch_size=batch_size, loader=loader, workers=workers)
    with closing(loading) as loaded:
        for pictures, _, samples in loaded:
            pixels = pictures.cpu().numpy()
            found = wanted @ _unit(predictor.embeddings(pixels)[0]).T
            scores = np.concatenate([scores, found], axis=1)
            nearest = np.concatenate([nearest, np.tile(samples.numpy(), (len(paths), 1))], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            scores, nearest = np.take_along_axis(scores, order, 1), np.take_along_axis(nearest, order, 1)
            seen.update(zip(samples.tolist(), pixels, strict=True))
            seen = {sample: seen[sample] for sample in np.unique(nearest).tolist()}
    file_of = files_of(shards)
    return [
        Similar(
            path,
            tuple(_neighbour(shards, file_of, sample, score) for sample, score in zip(row, of_row, strict=True)),
            np.stack([picture, *(seen[sample] for sample in row)]),
        )
        for path, picture, row, of_row in zip(paths, given, nearest.tolist(), scores.tolist(), strict=True)
    ]


def write_similar_sheet(found: Sequence[Similar], path: Path) -> None:
    """Draw a row for each photograph with its neighbours, their similarities and classes, into the file `path`.

    Raises UserError if the file can't be written.
    """
    captions = []
    for each in found:
        captions.append(f"{each.image.name}\ngiven")
        captions += [f"{near.similarity:.3f} {' + '.join(near.classes)}\n{near.file}" for near in each.neighbours]
    pixels = np.concatenate([each.pixels for each in found])
    save_sheet(contact_sheet(pixels, captions, columns=len(found[0].pixels) if len(found) > 1 else None), path)


def _read(predictor: Predictor, path: Path) -> NDArray[np.uint8]:
    try:
        return predictor.read(path)
    except Unreadable as error:
        raise UserError(f"{path}: {error}; give another photograph") from None


def _unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: NDArray[np.float32] = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _neighbour(shards: ShardSet, file_of: FileOf, sample: int, score: float) -> Neighbour:
    row = shards.index[sample]
    labels = shards.labels(np.array([sample]))[0]
    chosen = np.flatnonzero(labels) if shards.multi_label else [labels]
    names = tuple(shards.classes[int(label)] for label in chosen)
    return Neighbour(sample, file_of(sample), SPLITS[row["split"]], names, round(score, 6))
