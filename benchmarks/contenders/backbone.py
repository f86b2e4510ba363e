"""The backbone with its real weights, and how a plain PyTorch model is evaluated, for contenders without their own."""

from __future__ import annotations

import timm
import torch
from job import MODEL, Job, Predict
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

BATCH = 64
WORKERS = 2


def create_backbone(job: Job, classes: int) -> torch.nn.Module:
    """Return `MODEL` with the job's weights and a new classifier of `classes`; 0 leaves it off."""
    model = timm.create_model(MODEL, num_classes=classes)
    state = {name: value for name, value in load_file(job.weights).items() if not name.startswith("classifier")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any(not name.startswith("classifier") for name in missing):
        raise ValueError(f"{job.weights}: not the weights of {MODEL}; make them with tools/lite0_weights.py")
    return model


def normalization(model: torch.nn.Module) -> transforms.Normalize:
    """Return the normalization that the weights were trained with."""
    config = timm.data.resolve_model_data_config(model)
    return transforms.Normalize(config["mean"], config["std"])


def centre_crop(side: int, normalize: transforms.Normalize) -> transforms.Compose:
    """Return the usual evaluation: the short side to side / 0.875, and the centre of it."""
    resize = transforms.Resize(round(side / 0.875))
    return transforms.Compose([resize, transforms.CenterCrop(side), transforms.ToTensor(), normalize])


def predict_with(job: Job, model: torch.nn.Module, look: transforms.Compose) -> Predict:
    """Return what predicts with `model`, whose outputs are one logit for each of the job's classes."""

    @torch.inference_mode()
    def predict() -> dict[str, str]:
        model.eval()
        classes, found = job.classes(), {}
        for split in ("validation", "test"):
            data = datasets.ImageFolder(job.folder(split), look)
            logits = torch.cat([model(images) for images, _ in DataLoader(data, BATCH, num_workers=WORKERS)])
            for (path, _), label in zip(data.samples, logits.argmax(1).tolist(), strict=True):
                found[path.rpartition("/")[2].rpartition(".")[0]] = classes[label]
        return found

    return predict
