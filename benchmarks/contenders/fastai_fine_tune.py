"""fastai's `vision_learner` and `fine_tune`: the head alone for an epoch, then everything, by one-cycle.

`vision_learner` can only load a hub's weights by itself, so the body that it makes gets the same tensors from the file.
Everything else is what it does for pretrained timm models: timm's normalization, frozen body, discriminative rates.
"""

from __future__ import annotations

import torch
from backbone import BATCH, WORKERS, create_backbone
from fastai.callback.tracker import SaveModelCallback
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from job import MODEL, Job, Predict, report


def train(job: Job) -> Predict:
    set_seed(job.seed, reproducible=True)
    body = create_backbone(job, 0)
    mean, std = body.default_cfg["mean"], body.default_cfg["std"]
    data = ImageDataLoaders.from_folder(
        job.photographs,
        valid="validation",
        train="train",
        item_tfms=Resize(round(job.side * 1.25)),
        batch_tfms=[*aug_transforms(size=job.side, min_scale=0.75), Normalize.from_stats(mean, std)],
        bs=BATCH,
        num_workers=WORKERS,
        device=torch.device("cpu"),
    )
    learner = vision_learner(
        data, MODEL, pretrained=False, normalize=False, metrics=accuracy, path=job.scratch, model_dir="models"
    )
    learner.model[0].model.load_state_dict(body.state_dict())
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(job.epochs, cbs=SaveModelCallback(monitor="accuracy"))

    def predict() -> dict[str, str]:
        paths = job.evaluated()
        with learner.no_bar(), learner.no_logging():
            logits, _ = learner.get_preds(dl=data.test_dl(paths, num_workers=WORKERS))
        labels = logits.argmax(1).tolist()
        return {path.stem: data.vocab[label] for path, label in zip(paths, labels, strict=True)}

    return predict


if __name__ == "__main__":
    report(train)
