"""scikit-learn's LogisticRegression on the frozen body's features, its C chosen by accuracy on the validation split."""

from __future__ import annotations

import numpy as np
import torch
from backbone import BATCH, WORKERS, centre_crop, create_backbone, normalization
from job import Job, Predict, report
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from torchvision import datasets


def train(job: Job) -> Predict:
    body = create_backbone(job, 0).eval()
    look = centre_crop(job.side, normalization(body))
    data = {split: datasets.ImageFolder(job.folder(split), look) for split in ("train", "validation", "test")}

    @torch.inference_mode()
    def features(split: str) -> np.ndarray:
        batches = DataLoader(data[split], BATCH, num_workers=WORKERS)
        return torch.cat([body(images) for images, _ in batches]).numpy()

    known, validation = features("train"), features("validation")
    tried = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(known, data["train"].targets)
        for strength in np.logspace(-4, 0, 5)
    ]
    best = max(tried, key=lambda each: each.score(validation, data["validation"].targets))

    def predict() -> dict[str, str]:
        classes, found = job.classes(), {}
        for split, seen in (("validation", validation), ("test", features("test"))):
            for (path, _), label in zip(data[split].samples, best.predict(seen), strict=True):
                found[path.rpartition("/")[2].rpartition(".")[0]] = classes[label]
        return found

    return predict


if __name__ == "__main__":
    report(train)
