"""Evaluate a run's final weights, after fitting a temperature or the thresholds on the validation split."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.of_spec import AnyEvaluation, AnyPredictions, with_certainty
from fasttrain.evaluation.temperature import LogitSample
from fasttrain.loaders.base import Loader
from fasttrain.model.tta import FlipAveraged
from fasttrain.training.parts import RunParts
from fasttrain.training.state import REFIT

Evaluate = Callable[..., tuple[AnyEvaluation, AnyPredictions]]


def evaluate_weights(
    parts: RunParts,
    model: torch.nn.Module,
    split: str,
    loader: Loader,
    evaluate: Evaluate,
) -> tuple[AnyEvaluation, dict[str, AnyPredictions]]:
    """Evaluate the run's final `model` on `split`, whose photographs `loader` loads.

    First fit the temperature (single-label) or the thresholds (multi-label) on the validation split, and store the
    result in `parts.spec`. A refit, which has trained on that split, keeps its temperature. `evaluate`: evaluates a
    model on a loader. Return the evaluation, and the predictions by the name of the split: those for `split` and, if
    the temperature was fitted, those for "val".
    """
    if parts.spec.multi_label:
        evaluation, predictions = _evaluate_sets(parts, model, loader, evaluate)
        return evaluation, {split: predictions}
    kept: dict[str, AnyPredictions] = {}
    if parts.state.phase != REFIT:  # a refit has trained on the validation split
        val = parts.loaders.val
        logits = LogitSample(len(val.ids), len(parts.shards.classes))
        _, kept["val"] = evaluate(model, val, logits_seen=logits.add)
        parts.spec = replace(parts.spec, temperature=logits.temperature(parts.ranks))
    evaluation, predictions = evaluate(_with_tta(parts, model), loader)
    return with_certainty(evaluation, predictions), {**kept, split: predictions}


def _evaluate_sets(
    parts: RunParts, model: torch.nn.Module, loader: Loader, evaluate: Evaluate
) -> tuple[AnyEvaluation, AnyPredictions]:
    """Choose the thresholds on the validation split, then evaluate `model` on `loader`.

    After a refit, which has trained on that split, the thresholds are chosen with the best weights before the refit.
    """
    chooser = _best_of_search(parts, model) if parts.state.phase == REFIT else model
    evaluation, predictions = evaluate(_with_tta(parts, chooser), parts.loaders.val)
    assert isinstance(evaluation, SetEvaluation)
    parts.spec = replace(parts.spec, thresholds=evaluation.thresholds)
    if loader is not parts.loaders.val:
        evaluation, predictions = evaluate(_with_tta(parts, model), loader)
    return evaluation, predictions


def _best_of_search(parts: RunParts, model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of `model` with the weights of the best epoch before the refit."""
    best = copy.deepcopy(model)
    if parts.state.best is not None:  # on rank 0
        best.load_state_dict(parts.state.best)
    parts.ranks.share(best.state_dict().values())
    return best


def _with_tta(parts: RunParts, model: torch.nn.Module) -> torch.nn.Module:
    return FlipAveraged(model) if parts.config.tta == "flip" else model
