"""Ultralytics' ClassificationTrainer with its default settings, on the same backbone in place of a YOLO body."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from backbone import BATCH, WORKERS, create_backbone, normalization
from job import Job, Predict, report
from PIL import Image
from ultralytics.data.augment import classify_transforms
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.nn.tasks import ClassificationModel
from ultralytics.utils import torch_utils

torch_utils.NUM_THREADS = len(os.sched_getaffinity(0))  # by itself it leaves one of the contest's two cores idle


class Backbone(torch.nn.Module):
    """The layer that Ultralytics sees: it gives RGB in [0, 1], and takes (probabilities, logits) in evaluation."""

    f, i, type, np = -1, 0, "Backbone", 0

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.normalize, self.linear = normalization(model), model

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        logits = self.linear(self.normalize(images))
        return logits if self.training else (logits.softmax(1), logits)


def train(job: Job) -> Predict:
    class Trainer(ClassificationTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):  # type: ignore[no-untyped-def]
            model = ClassificationModel(cfg, nc=self.data["nc"], ch=3, verbose=False)
            model.model = torch.nn.Sequential(Backbone(create_backbone(job, self.data["nc"])))
            return model

        def final_eval(self) -> None:
            """Skip the last validation, which is no part of training."""

    photographs = Path(job.scratch) / "photographs"  # it writes files beside the splits
    photographs.mkdir()
    for split in ("train", "validation", "test"):
        (photographs / split).symlink_to(job.folder(split))
    trainer = Trainer(
        overrides={
            "model": "yolov8n-cls.yaml",
            "data": str(photographs),
            "imgsz": job.side,
            "epochs": job.epochs,
            "batch": BATCH,
            "workers": WORKERS,
            "seed": job.seed,
            "device": "cpu",
            "amp": False,
            "plots": False,
            "project": job.scratch,
            "name": "ultralytics",
        }
    )
    trainer.train()
    saved = torch.load(trainer.best, map_location="cpu", weights_only=False)  # its own loader refuses foreign layers
    model = (saved.get("ema") or saved["model"]).float().eval()
    look = classify_transforms(job.side)

    @torch.inference_mode()
    def predict() -> dict[str, str]:
        found = {}
        for path in job.evaluated():
            probabilities, _ = model(look(Image.open(path).convert("RGB"))[None])
            found[Path(path).stem] = job.classes()[int(probabilities.argmax())]
        return found

    return predict


if __name__ == "__main__":
    report(train)
