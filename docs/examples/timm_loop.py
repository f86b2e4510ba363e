"""Train with timm's parts, as its train.py does: `python timm_loop.py PHOTOGRAPHS`, a folder with `train/CLASS/*.jpg`.

Prints images/s with timm's `create_loader`, then with fasttrain's Loader; `--loader` chooses one of them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy

from fasttrain import Loader, Normalize, RandomResizedCrop

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_loader(args: argparse.Namespace, config: dict) -> Iterable:
    dataset = create_dataset("", root=str(args.photographs), split="train")
    return create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=args.batch_size,
        is_training=True,
        color_jitter=0,
        mean=config["mean"],
        std=config["std"],
        num_workers=os.cpu_count() or 1,
        device=device,
    )


def fasttrain_loader(args: argparse.Namespace, config: dict) -> Loader:
    options = {"batch_size": args.batch_size, "drop_last": True, "device": device}
    normalize = Normalize(config["mean"], config["std"])
    return Loader(args.photographs, crop=RandomResizedCrop(args.size), transforms=[normalize], **options)


def train(name: str, args: argparse.Namespace) -> None:
    classes = len(list((args.photographs / "train").iterdir()))
    model = timm.create_model("test_byobnet", num_classes=classes).to(device)
    config = resolve_data_config({"img_size": args.size}, model=model)
    loader = torch_loader(args, config) if name == "torch" else fasttrain_loader(args, config)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=args.epochs)
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(epochs):
        start, losses, top1 = time.perf_counter(), AverageMeter(), AverageMeter()
        model.train()
        for images, labels in loader:
            labels = labels.to(device)
            output = model(images)
            loss = loss_of(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            top1.update(accuracy(output, labels)[0].item(), len(images))
        scheduler.step(epoch + 1)
        rate = losses.count / (time.perf_counter() - start)
        told = f"loss {losses.avg:.2f}, top-1 {top1.avg:.0f} %, {losses.count} photographs, {rate:,.0f} images/s"
        print(f"{name}, epoch {epoch + 1}: {told}")


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
