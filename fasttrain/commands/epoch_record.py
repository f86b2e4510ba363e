"""Build the record of an epoch for `history.json`, MLflow and the console."""

from __future__ import annotations

from typing import Any

from fasttrain.device import memory_peak
from fasttrain.evaluation.of_spec import AnyEvaluation
from fasttrain.training.parts import RunParts


def epoch_record(
    parts: RunParts, images: int, learning_rate: float, validation: AnyEvaluation | None, improved: bool
) -> dict[str, Any]:
    """Return the record of the epoch that has just been trained: its losses, metrics, speed and times, by name.

    All ranks must call this. `images`: the number of photographs trained on. `learning_rate`: the epoch's rate.
    `validation`: the evaluation on the validation split, or None during a refit. `improved`: whether the epoch is the
    best so far.
    """
    state, config, ranks = parts.state, parts.config, parts.ranks
    totals, seconds = state.totals.over(ranks), state.epoch_seconds
    train_loss, train_accuracy = totals.means()
    each_epoch = () if validation is None else ("loss", *validation.EACH_EPOCH)
    record: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "train_loss": train_loss,
        f"train_{totals.accuracy}": train_accuracy,
        **{f"val_{name}": getattr(validation, name) for name in each_epoch},
        **({"l2": parts.l2} if parts.on_features else {"learning_rate": learning_rate}),
        **({"phase": state.phase} if config.head_epochs or config.refit else {}),
        "improved": improved,
        "epoch_seconds": seconds,
        "img/s": images / seconds,
        "wait_share": state.epoch_wait / seconds,
        "image_size": state.loader.settings.image_size,
        **parts.loaders.bad_samples(ranks, validation is not None),
    }
    if (peak := memory_peak(parts.device)) is not None:
        record["cuda_peak_bytes"] = peak
    if state.scaler.is_enabled():
        record["skipped_steps"] = totals.skipped_steps()
    return record
