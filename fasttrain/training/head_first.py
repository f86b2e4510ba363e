"""Solve for the classifier before anything is trained, on features of the pretrained body (LP-FT, Kumar et al. 2022).

A new classifier sends random gradients into the body. One that already fits its features lets a short fine-tuning begin
where a linear probe ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import torch

from fasttrain.errors import UserError
from fasttrain.evaluation.splits import batches
from fasttrain.training.head_solver import solve_head
from fasttrain.training.linear_probe import Watched, compute_features
from fasttrain.training.parts import RunParts
from fasttrain.training.time_plan import HEAD_PHOTOGRAPHS

_L2 = 0.03  # the best of 0.1, 0.03 and 0.01 by the validation loss, on 3,068 photographs of clothing


def solve_head_first(parts: RunParts, side: int, watched: Watched) -> None:
    """Set the classifier of the model, and of its EMA, to the one that fits the features of pictures of `side` px.

    At most `HEAD_PHOTOGRAPHS` of the training split are taken, evenly spaced. Rank 0 solves for all. `watched` wraps
    its batches and may raise to stop. A model whose classifier can't be solved for is left as it is, and a warning is
    shown.
    """
    ranks, model = parts.ranks, parts.state.model
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, torch.nn.Linear):
        parts.warn(f"the head is not solved for first: it is no linear layer but a {type(head).__name__}")
        return
    if ranks.main:
        try:
            features, labels = _features(parts, side, watched)
            solve_head(head, features, labels, parts.step.criterion, _L2)
        except UserError as error:
            parts.warn(f"the head is not solved for first: {error}")
    ranks.share(head.state_dict().values())
    if parts.state.ema is not None:
        parts.state.ema.module.load_state_dict(model.state_dict())


def _features(parts: RunParts, side: int, watched: Watched) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features, float32 [n, D], and the labels, int64 [n], on the device."""
    step, settings = parts.step, parts.loaders.train.settings
    ids = parts.loaders.train.ids
    ids = ids[:: -(-len(ids) // HEAD_PHOTOGRAPHS)]
    seen = batches(
        parts.shards,
        ids,
        side,
        batch_size=settings.batch_size,
        loader=parts.loader_name,
        workers=settings.workers,
        device=parts.device,
        on_bad_sample=settings.on_bad_sample,
        report=settings.report,
    )
    labels: list[torch.Tensor] = []

    def noted() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for batch in watched(seen):
            labels.append(batch[1])
            yield batch

    with closing(seen):
        features = compute_features(parts.state.model, noted(), step.preprocess, step.autocast, parts.device)
    return features.to(parts.device), torch.cat(labels).to(parts.device)
