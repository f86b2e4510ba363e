"""`preview`: the first photographs of an epoch as the model sees them, from one loader or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.augment.augmentation import Augmentation, make_augmentation
from fasttrain.config.schema import TrainConfig
from fasttrain.data.crops import RandomResizedCrop, evaluation_crop
from fasttrain.data.loader import Loader
from fasttrain.data.splits import check_split, split_ids
from fasttrain.device import choose_device
from fasttrain.errors import UserError
from fasttrain.loaders.registry import choose_loader, loader_class
from fasttrain.model.names import pretrained_config
from fasttrain.report.as_seen import Shares, as_seen
from fasttrain.report.contact_sheet import contact_sheet
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.reader import ShardSet
from fasttrain.training.default_weights import with_default_weights
from fasttrain.training.image_size import with_fitting_sizes
from fasttrain.training.interpolation import with_known_interpolation
from fasttrain.training.progressive import side_of_epoch

if TYPE_CHECKING:
    from PIL.Image import Image

REFERENCE = "torchvision"


@dataclass(frozen=True)
class Difference:
    """The difference between a loader's images and torchvision's before augmentation, in grey levels (0 to 255).

    `mean`: mean absolute difference over all pixels. `worst`: mean absolute difference of the image in which it is
    greatest. `pictures`: the number of images.
    """

    mean: float
    worst: float
    pictures: int


@dataclass(frozen=True)
class Preview:
    """The result of `preview`: the contact sheet and its contents.

    `pictures`: the images by the loader's name, uint8 [n, H, W, 3]. `captions`: n strings, one per photograph. If
    loaders were compared, `differences` has each loader's difference from torchvision, and `unavailable` has the reason
    why a loader can't run on this machine, both by the loader's name. If they were not compared, `why` is the reason
    why this loader was chosen.
    """

    sheet: Image
    pictures: dict[str, NDArray[np.uint8]]
    captions: list[str]
    why: str = ""
    differences: dict[str, Difference] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """A loader's crops, uint8 [n, H, W, 3], the same `pictures` after augmentation and mixing, and n captions."""

    crops: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    captions: list[str]


def preview(
    config: TrainConfig, *, split: str = "train", epoch: int = 0, count: int = 24, compare: Sequence[str] = ()
) -> Preview:
    """Draw the first `count` photographs of an epoch as the model sees them, before normalization.

    For the split "train" they are cropped and augmented as in `epoch`, counted from 0. For another `split` they are as
    in evaluation. `compare`: names of loaders; each gets a row with the same photographs. The result's `unavailable`
    names loaders that can't run here. Raises UserError if there are no photographs, or if no loader can run.
    """
    check_split(split)
    config, _ = with_default_weights(config)
    config, _ = with_known_interpolation(with_fitting_sizes(config)[0])
    shards = ShardSet.open(ensure_shards(config.data), config.cache_size)
    ids = split_ids(shards, split, config.data)
    device = choose_device(config.device)
    side = side_of_epoch(config, epoch)
    training = split == "train"
    crop = RandomResizedCrop(side, scale=config.crop_scale, interpolation=config.geometry.interpolation)
    batch_size = count if config.batch_size == "auto" else config.batch_size
    loading = {
        "batch_size": batch_size,
        "split": split,
        "crop": crop if training else evaluation_crop(config.geometry),
        "hflip": config.hflip if training else 0,
        "vflip": config.vflip if training else 0,
        "seed": config.seed,
        "workers": config.workers,
        "device": device,
        "limit": -(-count // batch_size),
        "shuffle": training and ("shards" if config.shuffle == "shards" else True),
        "sampling": config.sampling if training else "none",
    }
    augmentation = Augmentation()
    if training:
        augmentation = make_augmentation(
            config,
            ids,
            seed=config.seed,
            classes=len(shards.classes),
            mean=_input_mean(config.model),
            device=device,
        )
    pipeline = _Pipeline(shards, loading, augmentation, device, epoch, count)
    title = f"epoch {epoch}, {side} px{_described(config)}" if training else f"{split}, {config.geometry}"
    return _compare(pipeline, compare, title) if compare else _draw_one(pipeline, config.loader, title)


def _draw_one(pipeline: _Pipeline, loader: str, title: str) -> Preview:
    kind, why = choose_loader(loader, pipeline.shards, str(pipeline.device))
    seen = pipeline.run(kind.name)
    sheet = contact_sheet(seen.pictures, seen.captions, title=f"{pipeline.shards.location}: {kind.name}, {title}")
    return Preview(sheet, {kind.name: seen.pictures}, seen.captions, why)


def _compare(pipeline: _Pipeline, names: Sequence[str], title: str) -> Preview:
    shards, device = pipeline.shards, str(pipeline.device)
    kinds = [choose_loader(name, shards, device)[0] if name == "auto" else loader_class(name) for name in names]
    seen: dict[str, _Seen] = {}
    unavailable: dict[str, str] = {}
    for kind in dict.fromkeys(kinds):
        if reason := kind.unavailable(shards, device):
            unavailable[kind.name] = reason
            continue
        try:
            seen[kind.name] = pipeline.run(kind.name)
        except ImportError as error:
            unavailable[kind.name] = f"it can't be imported: {error}"
    if not seen:
        raise UserError("none of these loaders can run here: " + "; ".join(map(": ".join, unavailable.items())))
    reference = seen[REFERENCE] if REFERENCE in seen else pipeline.run(REFERENCE)
    captions = reference.captions
    sheet = contact_sheet(
        np.concatenate([each.pictures for each in seen.values()]),
        captions * len(seen),
        title=f"{shards.location}: {title}",
        rows=list(seen),
    )
    differences = {name: _difference(each.crops, reference.crops) for name, each in seen.items()}
    pictures = {name: each.pictures for name, each in seen.items()}
    return Preview(sheet, pictures, captions, "", differences, unavailable)


class _Pipeline:
    """Loads photographs with a given loader and augments them as training does before normalization."""

    def __init__(
        self,
        shards: ShardSet,
        loading: dict[str, Any],
        augmentation: Augmentation,
        device: torch.device,
        epoch: int,
        count: int,
    ) -> None:
        self.shards, self.device = shards, device
        self._loading, self._epoch, self._count = loading, epoch, count
        self._augmentation = augmentation

    def run(self, name: str) -> _Seen:
        """Load and augment the photographs with the loader `name`."""
        loader = Loader(self.shards, loader=name, with_ids=True, rank=0, world_size=1, **self._loading)
        crops, pictures = [], []
        captions: list[str] = []
        loader.set_epoch(self._epoch)
        try:
            for images, labels, ids in loader:
                crops.append(images.cpu().numpy())
                shown, shares = as_seen(
                    images.to(self.device),
                    labels.to(self.device),
                    ids.numpy(),
                    self._epoch,
                    self.shards.classes,
                    self._augmentation,
                )
                pictures.append(shown)
                captions += map(_caption, shares)
        finally:
            loader.close()
        first = slice(self._count)
        return _Seen(np.concatenate(crops)[first], np.concatenate(pictures)[first], captions[first])


def _caption(shares: Shares) -> str:
    if all(share == 1 for _, share in shares):  # single-label, or a multi-label image that is not mixed
        return "\n".join(name for name, _ in shares) or "none"
    name, greatest = shares[0]
    if greatest >= 0.995:
        return name
    return "\n".join(f"{each} {share:.0%}" for each, share in shares[:2])


def _input_mean(model: str) -> tuple[float, ...]:
    """Return the colour that fills erased and empty pixels: the mean in timm's configuration of `model`, 3 values."""
    mean: tuple[float, ...] = pretrained_config(model).mean
    return mean


def _described(config: TrainConfig) -> str:
    names = (
        *("crop_scale", "interpolation", "hflip", "vflip"),
        *("rand_augment", "trivial_augment", "color_jitter", "random_erasing", "mixup", "cutmix"),
    )
    return "".join(f", {name}={getattr(config, name)}" for name in config.changed(names))


def _difference(crops: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Difference:
    by_picture = np.abs(crops.astype(np.float32) - reference).mean(axis=(1, 2, 3))
    return Difference(float(by_picture.mean()), float(by_picture.max()), len(crops))
