"""`--linear-probe`: compute the features of each split once, cache them, and fit the head on them.

Each epoch fits the head with one strength of the L2 penalty, the likeliest first. The validation loss chooses among
them. Everything else is an ordinary run: checkpoints, resuming, evaluation and the saved model are not aware of it,
because the loaders yield features instead of images and the model's `forward` accepts them.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fasttrain.config.location import cache_root
from fasttrain.config.schema import TrainConfig
from fasttrain.data.crops import evaluation_crop
from fasttrain.device import copy_to, full_precision
from fasttrain.errors import UserError
from fasttrain.files import atomic_write_bytes, make_folder
from fasttrain.loaders import base
from fasttrain.loaders.plan import BadSamples, Batch, EpochPlan, balanced_order, epoch_order
from fasttrain.model.criterion import Criterion
from fasttrain.model.factory import ModelSpec
from fasttrain.model.precision import Autocast
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet
from fasttrain.training.data import Loaders, photographs_in_order
from fasttrain.training.finite import LOOK_EVERY
from fasttrain.training.head_solver import solve_head
from fasttrain.training.state import TrainingState

Batches = Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
Watched = Callable[[Batches], Batches]

_STRONGEST, _WEAKEST = 1e-4, 1.0  # C of scikit-learn: 1 / (L2 penalty * samples), on standardized features
_MOST_UNDER_MINUTES = 10_000  # photographs; a head fitted on more is hardly a better start for fine-tuning
_TOLERANCE = 1e-2  # relative to the greatest logit, for half precision


class FeatureLoader(base.Loader):
    """A loader that yields features, float32 [n, D], instead of images.

    Order, settings and position in the epoch are those of `pictures`, the loader of images that this one replaces.
    """

    name = "features"

    def __init__(self, pictures: base.Loader, ids: NDArray[np.int64], features: torch.Tensor) -> None:
        """Create a loader of `features`, float32 [N, D].

        `ids`: int64 [N], the row number in the shards' index of the sample of each row of `features`. They may be only
        a part of the samples of `pictures`.
        """
        super().__init__(pictures.shards, ids, pictures.settings)
        self.load_state_dict(pictures.state_dict())
        self._pictures, self._features = pictures, features

    def plan(self) -> EpochPlan:
        """Return the plan of the epoch: only the order of its samples, because features have no crops or flips."""
        order, settings = self.ids, self.settings
        if settings.shuffle != "none":
            shards = self.shards.index["shard"][order].astype(np.int64) if settings.shuffle == "shards" else None
            if settings.sampling == "balanced":
                labels = self.shards.class_numbers(order)
                order, _ = balanced_order(order, labels, settings.seed, self.epoch, shards)
            else:
                order = epoch_order(order, settings.seed, self.epoch, shards)
        count, side = len(order), settings.image_size
        return EpochPlan(order, np.zeros((count, 4), np.int32), np.zeros(count, np.bool_), (side, side))

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        for batch in batches:
            rows = torch.from_numpy(np.searchsorted(self.ids, batch.ids))
            yield self._features[copy_to(self._features.device, rows)], ()

    def close(self) -> None:
        """Close the loader of images."""
        self._pictures.close()


def to_features(
    state: TrainingState,
    loaders: Loaders,
    spec: ModelSpec,
    *,
    preprocess: torch.nn.Module,
    autocast: Autocast,
    device: torch.device,
    watched: Watched,
    say: Callable[[str], None],
    setting: str,
    most: int | None = None,
) -> Loaders:
    """Make the run of `state` train its classifier on features. Return loaders that yield features.

    Features are read from the cache; those that are not there are computed and cached. Afterwards `state.loader` is the
    new training loader, and `state.model` takes features, until its attribute `forward` is deleted. `watched` wraps the
    batches from which features are computed, and may raise to stop. `say` receives a line per split. `setting`: the
    setting to name in errors. `most`: the run trains on at most this many photographs, evenly spaced; None means all.
    Raises UserError if the model computes its logits from its features by more than one linear layer, or if a feature
    is not finite.
    """
    model = state.model
    digest = _digest(model, spec, loaders.train, autocast)
    shards = loaders.train.shards.stored

    @functools.cache
    def of_split(split: str, spacing: int) -> torch.Tensor:
        ids = shards.ids(split)[::spacing]
        which = split if spacing == 1 else f"{split}-{spacing}"
        path = cache_root() / "features" / f"{digest}-{which}.safetensors"
        features = _read(path, len(ids))
        if features is None:
            began, crop = time.perf_counter(), evaluation_crop(spec.geometry)
            with closing(photographs_in_order(loaders.train, shards, ids, crop, device)) as seen:
                features = _compute(model, watched(seen), preprocess, autocast, device, setting)
            _write(path, features)
            seconds = time.perf_counter() - began
            say(f"features: {len(features):,} photographs of the {split} split in {seconds:.1f} s, kept in {path}")
        else:
            say(f"features: {len(features):,} photographs of the {split} split, from {path}")
        return features

    def of(pictures: base.Loader | None, spacing: int = 1) -> FeatureLoader | None:
        if pictures is None:
            return None
        chosen = pictures.ids[::spacing]
        numbers = shards.index["split"][chosen]
        parts: list[torch.Tensor] = []
        order: list[NDArray[np.int64]] = []
        for number in np.unique(numbers).tolist():  # a fold's photographs come from two splits
            rows = np.flatnonzero(numbers == number)
            found, ids = of_split(SPLITS[number], spacing), shards.ids(SPLITS[number])[::spacing]
            own = torch.from_numpy(np.searchsorted(ids, chosen[rows]))
            parts.append(found if len(rows) == len(ids) else found[own])
            order.append(rows)
        by_id = torch.from_numpy(np.argsort(np.concatenate(order)))
        features = parts[0] if len(parts) == 1 else torch.cat(parts)[by_id]
        return FeatureLoader(pictures, chosen, features.to(device))

    spacing = 1 if most is None else -(-len(loaders.train.ids) // most)
    train, val, test = of(loaders.train, spacing), of(loaders.val), of(loaders.test)
    assert train is not None and val is not None
    head = _head(model)
    model.forward = lambda features: head(features)
    state.loader = train
    return Loaders(train, val, test)


def _head(model: Any) -> torch.nn.Linear:
    head: torch.nn.Linear = model.get_classifier()
    return head


def most_for_head(config: TrainConfig) -> int | None:
    """Return the greatest number of photographs on whose features the head is fitted, or None for all photographs.

    The number is limited only under `minutes`, if everything trains after the head. A fold of a cross-validation is
    never limited, because its validation photographs may come from the stored training split.
    """
    return _MOST_UNDER_MINUTES if config.minutes and not config.linear_probe and config.fold is None else None


def l2_strength(epoch: int, epochs: int, samples: int) -> float:
    """Return the L2 penalty of `epoch`, counted from 0, out of `epochs`.

    In scikit-learn's terms the penalty is 1 / (C * samples). C is evenly spaced on a log scale from 1e-4 to 1. The
    middle comes first and the extremes come last, so that a run that ends early has tried the likeliest.
    """
    outward = (epoch + 1) // 2 * (1 if epoch % 2 else -1)
    share = ((epochs - 1) // 2 + outward) / (epochs - 1) if epochs > 1 else 0.5
    return 1 / (samples * _STRONGEST * (_WEAKEST / _STRONGEST) ** share)


def solve_epoch(state: TrainingState, criterion: Criterion, l2: float, *, stop_requested: Callable[[], bool]) -> bool:
    """Fit the head of `state.model` on the current epoch of `state.loader`, with the L2 penalty `l2`.

    The fit counts as one step. Labels are not smoothed: label smoothing and the L2 penalty both regularize, and
    together cost a point of top1 (`docs/recipes.md`). Returns False and leaves the state unchanged if a stop was
    requested, otherwise True. Does nothing and returns True if the epoch has no batches left.
    """
    before, began = state.loader.state_dict(), time.perf_counter()
    batches = [(features, labels) for features, labels, _ in state.loader]
    if not batches:
        return True
    device, head = state.totals.device, _head(state.model)
    features, labels = (torch.cat(each).to(device) for each in zip(*batches, strict=True))
    # The multi-label loss is a mean over classes: give each class the penalty of its own logistic regression.
    penalty = l2 / labels.shape[1] if labels.ndim == 2 else l2
    criterion = copy.copy(criterion)
    criterion.label_smoothing = 0.0
    if not solve_head(head, features, labels, criterion, penalty, stop_requested=stop_requested):
        state.loader.load_state_dict(before)
        return False
    with torch.no_grad():
        logits = head(features)
        state.totals.update(criterion(logits, labels), logits, labels, len(labels))
    state.step += 1
    state.schedule.skip_epoch()
    state.epoch_seconds = time.perf_counter() - began
    return True


def _compute(
    model: Any,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    preprocess: torch.nn.Module,
    autocast: Autocast,
    device: torch.device,
    setting: str,
) -> torch.Tensor:
    """Return the features, float32 [N, D], on the host. It waits for the device once every `LOOK_EVERY` batches."""
    parts: list[torch.Tensor] = []
    waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def fetch() -> None:
        features, ids = (torch.cat(each) for each in zip(*waiting, strict=True))
        waiting.clear()
        parts.append(features.cpu())
        finite = parts[-1].flatten(1).isfinite().all(dim=1)
        if not finite.all():
            sample = int(ids[int((~finite).nonzero()[0])])
            raise UserError(
                f"{setting}: the features of sample {sample} are not finite; use --no-amp or other --weights"
            )

    model.eval()
    with torch.no_grad():
        for images, _, ids in batches:
            inputs = preprocess(copy_to(device, images))
            with autocast():
                features = model.forward_head(model.forward_features(inputs), pre_logits=True)
                waiting.append((features.float(), ids))
                if not parts:
                    fetch()
                    _require_linear(model, inputs, features, setting)
            if len(waiting) == LOOK_EVERY:
                fetch()
        if waiting:
            fetch()
    return torch.cat(parts)


def classifier_alone_follows(model: Any, side: int) -> bool:
    """Return whether `model` computes its logits from its features by a single linear layer."""
    if not all(hasattr(model, name) for name in ("get_classifier", "forward_features", "forward_head")):
        return False
    if not isinstance(_head(model), torch.nn.Linear):
        return False
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), full_precision():
            inputs = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(0))
            inputs = inputs.to(next(model.parameters()).device)
            features = model.forward_head(model.forward_features(inputs), pre_logits=True)
            return _is_linear(model, inputs, features)
    finally:
        for module, flag in training.items():
            module.training = flag


def _require_linear(model: Any, inputs: torch.Tensor, features: torch.Tensor, setting: str = "linear_probe") -> None:
    if not _is_linear(model, inputs, features):
        raise UserError(
            f"{setting}: {type(model).__name__} has more layers than a linear head after its features; use --freeze"
        )


def _is_linear(model: Any, inputs: torch.Tensor, features: torch.Tensor) -> bool:
    head = _head(model)
    if features.ndim != 2 or features.shape[1] != head.in_features:
        return False
    started = head.weight.clone()
    head.weight.normal_(generator=torch.Generator(head.weight.device).manual_seed(0))  # a new head is all zeros
    logits, expected = head(features), model(inputs)
    head.weight.copy_(started)
    return torch.allclose(logits, expected, rtol=0, atol=_TOLERANCE * max(float(expected.abs().max()), 1e-6))


def _write(path: Path, features: torch.Tensor) -> None:
    try:
        make_folder(path.parent)
        atomic_write_bytes(path, save({"features": features}))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; set FASTTRAIN_CACHE to a folder with space") from error


def _read(path: Path, count: int) -> torch.Tensor | None:
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):  # missing, or torn by a full disk: computed again
        return None
    return features if len(features) == count else None


def _photographs(shards: ShardSet) -> str:
    """Return a digest of the photographs and their order. It does not depend on the labels."""
    crc32s = shards.crc32s()
    if crc32s is None or not crc32s.all():  # older shards have no checksums, or 0
        return shards.fingerprint
    columns = (crc32s, shards.index["length"], shards.index["split"])
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in columns)).hexdigest()


def _digest(model: Any, spec: ModelSpec, loader: base.Loader, autocast: Autocast) -> str:
    """Return a digest of all that shapes the features: data, the body's weights, image size, decoder and precision."""
    with autocast():
        precision = torch.is_autocast_enabled(next(model.parameters()).device.type)
        kind = str(torch.get_autocast_dtype(next(model.parameters()).device.type)) if precision else "fp32"
    seen = asdict(spec.geometry)
    what = [_photographs(loader.shards.stored), spec.name, seen, spec.mean, spec.std, loader.name, kind]
    digest = hashlib.sha256(json.dumps(what).encode())
    head = {id(each) for each in model.get_classifier().parameters()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in head:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
