"""timm's own `train.py`, run from the checkout that $TIMM_REPO names, with the settings that its author advises.

The best epoch by validation top1 is kept, as the script does; its model is evaluated at the script's crop.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import timm
import torch
from backbone import BATCH, WORKERS, centre_crop, normalization, predict_with
from job import MODEL, Job, Predict, report


def train(job: Job) -> Predict:
    command = [
        *(sys.executable, str(Path(os.environ["TIMM_REPO"]) / "train.py"), "--data-dir", job.photographs),
        *("--model", MODEL, "--pretrained", "--pretrained-path", job.weights, "--num-classes", str(len(job.classes()))),
        *("--input-size", "3", str(job.side), str(job.side), "--batch-size", str(BATCH), "--workers", str(WORKERS)),
        *("--device", "cpu", "--channels-last", "--seed", str(job.seed), "--epochs", str(job.epochs)),
        *("--sched-on-updates", "--warmup-epochs", "0", "--checkpoint-hist", "1"),
        *("--output", job.scratch, "--experiment", "timm"),
        *job.options["arguments"],
    ]
    subprocess.run(command, check=True, cwd=job.scratch)
    model = timm.create_model(MODEL, num_classes=len(job.classes()))
    best = torch.load(Path(job.scratch) / "timm" / "model_best.pth.tar", map_location="cpu", weights_only=False)
    model.load_state_dict(best["state_dict_ema" if "--model-ema" in job.options["arguments"] else "state_dict"])
    return predict_with(job, model, centre_crop(job.side, normalization(model)))


if __name__ == "__main__":
    report(train)
