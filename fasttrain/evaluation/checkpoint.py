"""`evaluate`: a trained model on one split of a data set."""

from __future__ import annotations

from pathlib import Path

import torch

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.location import user_path
from fasttrain.errors import UserError
from fasttrain.evaluation.evaluate import evaluate_model
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.loaders.base import LoaderSettings
from fasttrain.loaders.registry import choose_loader
from fasttrain.model.depthwise import keep_slow_depthwise_in_fp32
from fasttrain.model.preprocess import Normalise
from fasttrain.model.tta import FlipAveraged
from fasttrain.report.html import write_page
from fasttrain.report.of_run import report_of_evaluation
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet
from fasttrain.training.device import amp_problem, choose_device, choose_workers, mixed_precision


def evaluate(
    checkpoint: str | Path,
    data: str | Path = "shards",
    *,
    split: str = "val",
    loader: str = "auto",
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    amp: bool = False,
    tta: str = "none",
    cache_size: str | None = None,
    on_bad_sample: str = "error",
    report: str | Path | None = None,
) -> Evaluation:
    """Evaluates the model that `checkpoint` (see `load_trained`) holds on `split` of `data`, a folder or a URL.

    cache_size: "50GB", of shards fetched from a URL. on_bad_sample: "skip" leaves out what has changed since it was
    converted or doesn't decode, as `train` does, in place of stopping there. report: where to write a page about it, as
    a run's `report.html`.

    `tta` "flip" averages the logits of each photograph and of its mirror image. Raises UserError where the split is
    empty or absent, or the data's classes are not the model's.
    """
    if on_bad_sample not in ("error", "skip"):
        raise UserError(f"on_bad_sample = '{on_bad_sample}' is not one of error, skip")
    if tta not in ("none", "flip"):
        raise UserError(f"tta = '{tta}' is not one of none, flip")
    checkpoint, report = user_path(checkpoint), None if report is None else user_path(report)
    model, spec = load_trained(checkpoint)
    if tta == "flip":
        model = FlipAveraged(model).eval()
    shards = ShardSet.open(ensure_shards(data), cache_size)
    if tuple(shards.classes) != spec.classes:
        missing = set(shards.classes) ^ set(spec.classes)
        raise UserError(f"{data}: its classes are not the model's ({len(missing)} differ, '{min(missing)}' first)")
    if split not in SPLITS:
        raise UserError(f"split = '{split}' is not one of {', '.join(SPLITS)}")
    ids = shards.ids(split)
    if not len(ids):
        raise UserError(f"{data}: no photograph in the {split} split; give another --split")
    where = choose_device(device)
    kind, _ = choose_loader(loader, shards, str(where))
    settings = LoaderSettings(
        batch_size,
        spec.image_size,
        None,
        workers=choose_workers(workers),
        device=str(where),
        on_bad_sample="skip" if on_bad_sample == "skip" else "error",
    )
    batches = kind(shards, ids, settings)
    amp = amp and amp_problem(where, "bf16") is None
    autocast, _ = mixed_precision(where, amp, "bf16")
    if amp and where.type == "cpu":  # as in training, so that its validation and this agree
        keep_slow_depthwise_in_fp32(model)
    try:
        evaluation, predictions = evaluate_model(
            model.to(where).to(memory_format=torch.channels_last),
            batches,
            num_classes=len(spec.classes),
            classes=list(spec.classes),
            device=where,
            preprocess=Normalise(spec.mean, spec.std, channels_last=True).to(where),
            autocast=autocast,
            criterion=torch.nn.CrossEntropyLoss(),
        )
    finally:
        batches.close()
    if report is not None:
        page = report_of_evaluation(
            evaluation,
            predictions,
            checkpoint=checkpoint,
            data=data,
            split=split,
            shards=shards,
            spec=spec,
            device=where,
        )
        write_page(report, page)
    return evaluation
