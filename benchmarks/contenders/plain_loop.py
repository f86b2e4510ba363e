"""The loop that PyTorch's tutorials show: ImageFolder, random crops and flips, Adam, the epoch of the least loss."""

from __future__ import annotations

import copy

import torch
from backbone import BATCH, WORKERS, centre_crop, create_backbone, normalization, predict_with
from job import Job, Predict, report
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def train(job: Job) -> Predict:
    torch.manual_seed(job.seed)
    model = create_backbone(job, len(job.classes())).to(memory_format=torch.channels_last)
    normalize = normalization(model)
    crop = [transforms.RandomResizedCrop(job.side, scale=(0.35, 1.0)), transforms.RandomHorizontalFlip()]
    augment = transforms.Compose([*crop, transforms.ToTensor(), normalize])
    look = centre_crop(job.side, normalize)
    training = datasets.ImageFolder(job.folder("train"), augment)
    validation = datasets.ImageFolder(job.folder("validation"), look)
    batches = DataLoader(training, BATCH, shuffle=True, num_workers=WORKERS)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.options["learning_rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, job.epochs * len(batches))
    best, kept = float("inf"), {}
    for _ in range(job.epochs):
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            losses = [
                torch.nn.functional.cross_entropy(model(images), labels, reduction="sum").item()
                for images, labels in DataLoader(validation, BATCH, num_workers=WORKERS)
            ]
        if sum(losses) < best:
            best, kept = sum(losses), copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return predict_with(job, model, look)


if __name__ == "__main__":
    report(train)
