"""`evaluate`: evaluate a trained model on one split of a data set."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import torch

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.trained import load_trained, run_folder
from fasttrain.config.interpolation import Interpolation
from fasttrain.config.load import read_toml
from fasttrain.config.location import user_path
from fasttrain.config.values import CacheSize
from fasttrain.data.crops import evaluation_crop
from fasttrain.data.splits import check_split, split_ids
from fasttrain.device import choose_device, make_current
from fasttrain.errors import UserError
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.evaluation.of_spec import evaluate_split, with_certainty
from fasttrain.evaluation.splits import as_model, batches, default_split, model_labels, require_same_kind
from fasttrain.extras import require
from fasttrain.model.own import OwnModel
from fasttrain.model.precision import choose_precision
from fasttrain.model.preprocess import NormalizePixels
from fasttrain.model.tta import FlipAveraged
from fasttrain.report.html import write_page
from fasttrain.report.mistakes import mistakes_beside, write_mistakes
from fasttrain.report.of_run import report_of_evaluation
from fasttrain.report.photographs import mistake_maps
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.format import ALL
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings

log = logging.getLogger("fasttrain")


def evaluate(
    checkpoint: str | Path,
    data: str | Path = "shards",
    *,
    model: str | OwnModel | None = None,
    split: str | None = None,
    loader: str = "auto",
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    amp: bool = False,
    tta: str = "none",
    interpolation: Interpolation | None = None,
    cache_size: str | CacheSize | None = None,
    on_bad_sample: str = "error",
    report: str | Path | None = None,
    explain: bool = False,
) -> Evaluation | SetEvaluation:
    """Evaluate the trained model in `checkpoint` on one split of `data`.

    checkpoint: a run folder, its `model.safetensors` or a checkpoint. data: shards (a folder or a URL), or a folder of
    class folders; some of the model's classes may be missing. model: needed if the run was trained on a model object of
    your own: that object, or the import path of a function that makes it.

    split: "train", "val", "test" or "all". The default is "val", or "all" for a folder of class folders, which has no
    splits (see `default_split`).

    loader, batch_size, workers, device: as in `train`. amp: evaluate in bf16 mixed precision if the device is fast at
    it. tta: "flip" averages the logits of each photograph and of its mirror image; "none" doesn't. interpolation:
    "bilinear" or "bicubic", by default as in training.

    cache_size: most disk space for shards downloaded from a URL, such as "50GB". on_bad_sample: "skip" leaves out
    photographs that have changed since they were converted, or that can't be decoded; "error" raises an error.

    report: an HTML file to write, like a run's `report.html`, with a CSV of all misclassified photographs next to it.
    explain: show class-activation maps of the mistakes in the report. This needs the extra `explain` and a
    convolutional model.

    Return an `Evaluation` or, for a multi-label model, a `SetEvaluation` with the thresholds of the run's `model.json`.
    Both hold the metrics over the split and for each class. Raises UserError if the split is missing or empty, or if
    the data has a class that the model doesn't know.
    """
    if on_bad_sample not in ("error", "skip"):
        raise UserError(f"on_bad_sample = '{on_bad_sample}' is not one of error, skip")
    if tta not in ("none", "flip"):
        raise UserError(f"tta = '{tta}' is not one of none, flip")
    limit = CacheSize.of(cache_size)
    split = split or default_split(data)
    check_split(split)
    if explain and report is None:
        raise UserError("--explain draws class-activation maps in a report; give --report FILE")
    if explain:
        require("--explain", "explain", "captum")
    checkpoint, report = user_path(checkpoint), None if report is None else user_path(report)
    trained, spec = load_trained(checkpoint, model, interpolation)
    without_tta = trained
    if tta == "flip":
        trained = FlipAveraged(trained).eval()
    settings = ShardSettings(val_fraction=0.0) if split == ALL else ShardSettings()
    shards = ShardSet.open(ensure_shards(data, settings, spec.classes), limit)
    require_same_kind(shards.multi_label, spec.multi_label, data)
    labels = model_labels(shards.classes, spec.classes, data)
    ids = split_ids(shards, split, data)
    for note in (shards.left_out(), _seen_in_training(checkpoint, data, split)):
        if note:
            log.warning("%s", note)
    where = make_current(choose_device(device))
    loading = batches(
        shards,
        ids,
        evaluation_crop(spec.geometry),
        batch_size=batch_size,
        loader=loader,
        workers=workers,
        device=where,
        on_bad_sample=on_bad_sample,
    )
    precision = choose_precision(trained, where, amp, "bf16")
    with closing(loading) as loaded:
        evaluation, predictions = evaluate_split(
            trained.to(where).to(memory_format=torch.channels_last),
            ((images, as_model(of_data, labels, spec), samples) for images, of_data, samples in loaded),
            spec,
            device=where,
            preprocess=NormalizePixels(spec.mean, spec.std, channels_last=True).to(where),
            autocast=precision.autocast,
        )
    evaluation = with_certainty(evaluation, predictions)
    if report is not None:
        table = mistakes_beside(report)
        wrong = write_mistakes(table, evaluation, predictions, shards)
        page = report_of_evaluation(
            evaluation,
            predictions,
            checkpoint=checkpoint,
            data=data,
            split=split,
            shards=shards,
            spec=spec,
            device=where,
            mistakes=(wrong, table.name),
            maps=mistake_maps(without_tta, spec, shards, where) if explain else None,
        )
        write_page(report, page)
    return evaluation


def _seen_in_training(checkpoint: Path, data: str | Path, split: str) -> str:
    """Return a warning if the model in `checkpoint` was trained on photographs of `split` of `data`, otherwise "".

    For the split "train", which says so itself, return "".
    """
    config = RunFolder(run_folder(checkpoint)).config
    settings = read_toml(config) if config.is_file() else {}
    refitted, fold = settings.get("refit", False), settings.get("fold")
    if split != ALL and (split != "val" or not (refitted or fold)):
        return ""
    trained_on = settings.get("data")
    if trained_on is None or user_path(trained_on).resolve() != user_path(data).resolve():
        return ""
    if refitted or fold:
        how = "refitted on train and val" if refitted else f"trained on the other folds of train and val (fold {fold})"
        return f"the model was {how} of {data}; only the test split is new to it"
    return f"the model was trained on most of {data}; evaluate its validation photographs with --split val"
