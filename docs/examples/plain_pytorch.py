"""Train with a plain PyTorch loop: `python plain_pytorch.py PHOTOGRAPHS`, a folder with `train/CLASS/*.jpg`.

Prints images/s with torch's DataLoader, then with fasttrain's Loader; `--loader` chooses one of them.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fasttrain import Loader, RandomResizedCrop

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_loader(args: argparse.Namespace) -> DataLoader:
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
    return DataLoader(dataset, args.batch_size, shuffle=True, num_workers=workers, persistent_workers=True)


def fasttrain_loader(args: argparse.Namespace) -> Loader:
    crop = RandomResizedCrop(args.size)
    return Loader(args.photographs, batch_size=args.batch_size, crop=crop, device=device, output="float")


def train(name: str, args: argparse.Namespace) -> None:
    loader = torch_loader(args) if name == "torch" else fasttrain_loader(args)
    classes = len(list((args.photographs / "train").iterdir()))
    model = timm.create_model("test_convnext", num_classes=classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(args.epochs):
        start, seen = time.perf_counter(), 0
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(images)
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
