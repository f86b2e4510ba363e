"""Train with Lightning Fabric: `python lightning_fabric.py PHOTOGRAPHS`, a folder with `train/CLASS/*.jpg`.

Prints images/s with torch's DataLoader, then with fasttrain's Loader; `--loader` chooses one of them.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import lightning as L
import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fasttrain import Loader, RandomResizedCrop


def torch_loader(args: argparse.Namespace, fabric: L.Fabric) -> DataLoader:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(args.size),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    dataset = ImageFolder(args.photographs / "train", transform)
    workers = os.cpu_count() or 1
    loader = DataLoader(dataset, args.batch_size, shuffle=True, num_workers=workers, persistent_workers=True)
    return fabric.setup_dataloaders(loader)


def fasttrain_loader(args: argparse.Namespace, fabric: L.Fabric) -> Loader:
    crop = RandomResizedCrop(args.size)
    return Loader(args.photographs, batch_size=args.batch_size, crop=crop, device=fabric.device, output="float")


def train(name: str, args: argparse.Namespace) -> None:
    fabric = L.Fabric()
    fabric.launch()
    loader = torch_loader(args, fabric) if name == "torch" else fasttrain_loader(args, fabric)
    model = timm.create_model("test_convnext", num_classes=len(list((args.photographs / "train").iterdir())))
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    for epoch in range(args.epochs):
        start, seen = time.perf_counter(), 0
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels.to(fabric.device))
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            seen += len(images)
        rate = seen / (time.perf_counter() - start)
        fabric.print(f"{name}, epoch {epoch + 1}: loss {loss.item():.2f}, {seen} photographs, {rate:,.0f} images/s")


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
