"""fasttrain, from photographs to the report: converting them, and everything that `train` does, is part of its time."""

from __future__ import annotations

import time
from pathlib import Path

from job import MODEL, Job, Predict, report

calibration: dict[str, float] = {}
"""The calibration errors of the test split, with the fitted temperature and without."""


def train(job: Job) -> Predict:
    """Train with the job's options, which are settings of `fasttrain.train`; `minutes` is what is left of the time.

    The job's epochs are those in which the entire model trains. Epochs of the head alone come before them.
    """
    from fasttrain import convert, predict, train
    from fasttrain.config.load import resolve

    scratch = Path(job.scratch)
    convert(job.photographs, scratch / "shards", progress=False)
    settings = {
        "data": str(scratch / "shards"),
        "out": scratch / "runs",
        "model": MODEL,
        "weights": Path(job.weights),
        "image_size": job.side,
        "seed": job.seed,
        "device": "cpu",
        "track": False,
        "save_every": "off",
        **job.options,
    }
    if "minutes" in settings:
        settings["minutes"] = (job.seconds - (time.time() - job.began)) / 60
    elif job.epochs is not None:
        settings["epochs"] = job.epochs + settings.get("head_epochs", 0)
    run = train(**settings)
    calibration.update(ece=run.evaluation.ece, uncalibrated_ece=run.evaluation.uncalibrated_ece)
    tta = resolve(settings).tta

    def predict_all() -> dict[str, str]:
        found = predict(run.folder, job.evaluated(), top_k=1, device="cpu", tta=tta)
        return {each.image.stem: each.classes[0] for each in found}

    return predict_all


if __name__ == "__main__":
    report(train, calibration)
