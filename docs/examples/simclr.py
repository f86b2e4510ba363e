"""Train as SimCLR does, on two views of each photograph: `python simclr.py PHOTOGRAPHS`, which has `train/CLASS/*.jpg`.

Prints photographs/s with torch's DataLoader, then with fasttrain's Loader; `--loader` chooses one of them. SimCLR's
colour distortion is left out of both: `transforms=[ColorJitter()]` does it on the device.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fasttrain import Loader, RandomResizedCrop

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TwoViews:
    """A transform that gives two random crops of a photograph."""

    def __init__(self, size: int) -> None:
        crop = [v2.RandomResizedCrop(size, scale=(0.2, 1)), v2.RandomHorizontalFlip()]
        normalize = v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        self.transform = v2.Compose([*crop, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])

    def __call__(self, image: Any) -> list[torch.Tensor]:
        return [self.transform(image), self.transform(image)]


def torch_loader(args: argparse.Namespace) -> DataLoader:
    dataset = ImageFolder(args.photographs / "train", TwoViews(args.size))
    workers = {"num_workers": os.cpu_count() or 1, "persistent_workers": True}
    return DataLoader(dataset, args.batch_size, shuffle=True, drop_last=True, **workers)


def fasttrain_loader(args: argparse.Namespace) -> Loader:
    crop = RandomResizedCrop(args.size, scale=(0.2, 1))
    options = {"batch_size": args.batch_size, "drop_last": True, "device": device, "output": "float"}
    return Loader(args.photographs, views=[crop, crop], **options)


def contrastive_loss(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """Return SimCLR's NT-Xent loss: of 2n views, float [n, d] each, each view has to find the other one."""
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    similarity = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    others = torch.arange(len(views), device=views.device).roll(len(first))
    return torch.nn.functional.cross_entropy(similarity, others)


def train(name: str, args: argparse.Namespace) -> None:
    loader = torch_loader(args) if name == "torch" else fasttrain_loader(args)
    model = timm.create_model("test_convnext", num_classes=32).to(device)  # the classifier is the projection
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(args.epochs):
        start, seen = time.perf_counter(), 0
        for (first, second), _ in loader:
            loss = contrastive_loss(model(first.to(device)), model(second.to(device)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(first)
        rate = seen / (time.perf_counter() - start)
        print(f"{name}, epoch {epoch + 1}: loss {loss.item():.2f}, {seen} photographs, {rate:,.0f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--loader", choices=["torch", "fasttrain"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    for name in [args.loader] if args.loader else ["torch", "fasttrain"]:
        train(name, args)
