"""`--average`: at the end of a run, average the weights of its best epochs if that is better on validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing

import torch

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.data.crops import evaluation_crop
from fasttrain.device import copy_to
from fasttrain.evaluation.of_spec import AnyEvaluation
from fasttrain.loaders.plan import epoch_order
from fasttrain.model.batch_norm import estimate_statistics, trained_norms
from fasttrain.training.data import photographs_in_order
from fasttrain.training.parts import RunParts
from fasttrain.training.result import Averaged
from fasttrain.training.soup import STATISTICS_BATCHES, Weights, averaged, greedy_soup

Validate = Callable[[torch.nn.Module], AnyEvaluation]


def average_best(parts: RunParts, folder: RunFolder, validate: Validate, say: Callable[[str], None]) -> Averaged | None:
    """Average the weights of the run's best epochs. Write the average to `folder` if it is better than the best epoch.

    `validate`: evaluates a model on the validation split. Return the averaged epochs and the average's metric, or None
    if no average is better than the best epoch alone. The training state isn't changed, so the run can be resumed with
    more epochs.
    """
    state, config, ranks = parts.state, parts.config, parts.ranks
    candidates = state.candidates.best_first
    if len(candidates) < 2:
        return None
    model = copy.deepcopy(state.evaluated_model)
    norms = trained_norms(state.model, parts.frozen)

    def load(weights: Weights | None) -> None:
        if weights is not None:
            model.load_state_dict(weights)
        ranks.share(model.state_dict().values())
        if norms:
            estimate_statistics(model, norms, _inputs(parts), parts.step.autocast)
            ranks.share(model.buffers())

    def evaluate(weights: Weights | None) -> float:
        load(weights)
        return config.monitored.of(validate(model))

    chosen, value = greedy_soup(candidates, config.monitor, evaluate)
    if len(chosen) < 2:
        say("weights: those of the best epoch, because no average is better on validation")
        return None
    load(averaged([candidates[each].weights for each in chosen]))  # the weights tried last may be different ones
    if ranks.main:
        folder.write_model(model)
    made = Averaged(tuple(sorted(candidates[each].epoch + 1 for each in chosen)), value)
    alone = candidates[0].value
    say(f"weights: {made.description}, {config.monitor} {value:.4f}; of the best epoch alone: {alone:.4f}")
    return made


def _inputs(parts: RunParts) -> Iterator[torch.Tensor]:
    """Yield batches of the model's input, from random training photographs that are cropped as in validation."""
    train, val = parts.loaders.train, parts.loaders.val
    order = epoch_order(train.ids, train.settings.seed, 0)
    most = min(STATISTICS_BATCHES, parts.config.limit_batches or STATISTICS_BATCHES)
    chosen = order[: most * train.settings.batch_size]
    crop = evaluation_crop(parts.spec.geometry)
    with closing(photographs_in_order(val, val.shards, chosen, crop, parts.device)) as batches:
        for images, _, _ in batches:
            yield parts.step.preprocess(copy_to(parts.device, images))
