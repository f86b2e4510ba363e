"""`--linear-probe`: the body runs once over each split; then the head trains on its features, which lie on the disk.

Everything after that is the ordinary run: the loop, checkpoints, resuming, evaluation and the model that is saved know
nothing of it, since the loaders give features in place of pictures and the model's `forward` takes them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fasttrain.errors import UserError
from fasttrain.loaders.base import BadSamples, InnerLoader, Loader
from fasttrain.loaders.plan import Batch, EpochPlan, epoch_order
from fasttrain.model.factory import ModelSpec
from fasttrain.photos.sources import cache_root
from fasttrain.shards.atomic import atomic_write_bytes, make_folder
from fasttrain.training.data import Loaders
from fasttrain.training.device import Autocast
from fasttrain.training.state import TrainingState

Watched = Callable[[Loader], Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]

_TOLERANCE = 1e-2  # of the greatest logit: half precision


class FeatureLoader(InnerLoader):
    """Features, float32 [n, D], where `pictures` has uint8 [n, H, W, 3]: in the same order, resumed in the same way."""

    name = "features"

    def __init__(self, pictures: Loader, features: torch.Tensor) -> None:
        """`features`, float32 [N, D]: of the samples `pictures.ids`, in that order."""
        super().__init__(pictures.shards, pictures.ids, pictures.settings)
        self.load_state_dict(pictures.state_dict())
        self._pictures, self._features = pictures, features

    def plan(self) -> EpochPlan:
        order, settings = self.ids, self.settings
        if settings.crop is not None:
            shards = self.shards.index["shard"][order].astype(np.int64) if settings.shuffle == "shards" else None
            order = epoch_order(order, settings.seed, self.epoch, shards)
        count, side = len(order), settings.image_size
        return EpochPlan(order, np.zeros((count, 4), np.int32), np.zeros(count, np.bool_), (side, side))

    def _load(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        for batch in batches():
            rows = torch.from_numpy(np.searchsorted(self.ids, batch.ids))
            yield self._features[rows.to(self._features.device)], ()

    def close(self) -> None:
        self._pictures.close()


def train_on_features(
    state: TrainingState,
    loaders: Loaders,
    spec: ModelSpec,
    *,
    preprocess: torch.nn.Module,
    autocast: Autocast,
    device: torch.device,
    watched: Watched,
    say: Callable[[str], None],
) -> Loaders:
    """Turns the run of `state` into one on features, read from the cache or computed now; returns their loaders.

    `state.model` and its EMA take features from then on. `watched` wraps a loader's batches and may raise to stop.
    Raises UserError where the model's logits are not its classifier's of its features, and under torchrun.
    """
    if loaders.train.settings.world_size > 1:
        raise UserError("linear_probe trains a head within seconds: start it without torchrun")
    model = state.model
    digest = _digest(model, spec, loaders.train, autocast)

    def of(pictures: Loader | None, split: str) -> FeatureLoader | None:
        if pictures is None:
            return None
        path = cache_root() / "features" / f"{digest}-{split}.safetensors"
        features = _read(path, len(pictures.ids))
        if features is None:
            whole = replace(pictures.settings, crop=None, limit_batches=None, rank=0, world_size=1)
            began = time.perf_counter()
            seen = type(pictures)(pictures.shards, pictures.ids, whole)
            try:
                features = _compute(model, watched(seen), preprocess, autocast, device)
            finally:
                seen.close()
            _write(path, features)
            seconds = time.perf_counter() - began
            say(f"features: {len(features):,} photographs of the {split} split in {seconds:.1f} s, kept in {path}")
        else:
            say(f"features: {len(features):,} photographs of the {split} split, from {path}")
        return FeatureLoader(pictures, features.to(device))

    train, val, test = of(loaders.train, "train"), of(loaders.val, "val"), of(loaders.test, "test")
    assert train is not None and val is not None
    for each in (model, state.ema.module if state.ema else None):
        if each is not None:
            each.forward = head_of(each)
    state.loader = train
    return Loaders(train, val, test)


def head_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    head = model.get_classifier()

    def forward(features: torch.Tensor) -> torch.Tensor:
        rate = float(getattr(model, "drop_rate", 0.0))
        return head(torch.nn.functional.dropout(features, rate, model.training)) if rate else head(features)

    return forward


def _compute(
    model: Any,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    preprocess: torch.nn.Module,
    autocast: Autocast,
    device: torch.device,
) -> torch.Tensor:
    parts: list[torch.Tensor] = []
    model.eval()
    with torch.no_grad():
        for images, _, _ in batches:
            inputs = preprocess(images.to(device, non_blocking=True))
            with autocast():
                features = model.forward_head(model.forward_features(inputs), pre_logits=True)
                if not parts:
                    _require_linear(model, inputs, features)
            parts.append(features.float().cpu())
    return torch.cat(parts)


def _require_linear(model: Any, inputs: torch.Tensor, features: torch.Tensor) -> None:
    expected = model(inputs).detach()
    if features.ndim == 2 and features.shape[1] == model.get_classifier().in_features:
        logits = model.get_classifier()(features).detach()
        if torch.allclose(logits, expected, rtol=0, atol=_TOLERANCE * max(float(expected.abs().max()), 1e-6)):
            return
    raise UserError(f"linear_probe: {type(model).__name__} does more to its features than its head; use --freeze")


def _write(path: Path, features: torch.Tensor) -> None:
    try:
        make_folder(path.parent)
        atomic_write_bytes(path, save({"features": features}))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; set FASTTRAIN_CACHE to a folder with room") from error


def _read(path: Path, count: int) -> torch.Tensor | None:
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):  # absent, or torn by a full disk: computed again
        return None
    return features if len(features) == count else None


def _digest(model: Any, spec: ModelSpec, loader: Loader, autocast: Autocast) -> str:
    """Of all that shapes the features: the data, the body's weights, the pictures' size and decoder, the precision."""
    with autocast():
        precision = torch.is_autocast_enabled(next(model.parameters()).device.type)
        kind = str(torch.get_autocast_dtype(next(model.parameters()).device.type)) if precision else "fp32"
    what = [loader.shards.fingerprint, spec.name, spec.image_size, spec.mean, spec.std, loader.name, kind]
    digest = hashlib.sha256(json.dumps(what).encode())
    head = {id(each) for each in model.get_classifier().parameters()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in head:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
