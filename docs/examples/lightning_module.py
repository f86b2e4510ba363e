"""Train with Lightning: `python lightning_module.py PHOTOGRAPHS`, with `train/CLASS/*.jpg` and `val/CLASS/*.jpg`.

Prints images/s with torch's DataLoader, then with fasttrain's Loader; `--loader` chooses one of them.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fasttrain import CenterCrop, Loader, RandomResizedCrop


class TorchData(L.LightningDataModule):
    def __init__(self, photographs: Path, size: int, batch_size: int) -> None:
        super().__init__()
        self.photographs, self.size = photographs, size
        self.options = {"batch_size": batch_size, "num_workers": os.cpu_count() or 1, "persistent_workers": True}

    def train_dataloader(self) -> DataLoader:
        crop = [v2.RandomResizedCrop(self.size), v2.RandomHorizontalFlip()]
        return DataLoader(self.dataset("train", crop), shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        crop = [v2.Resize(round(self.size / 0.875)), v2.CenterCrop(self.size)]
        return DataLoader(self.dataset("val", crop), **self.options)

    def dataset(self, split: str, crop: list[Any]) -> ImageFolder:
        normalize = v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        transform = v2.Compose([*crop, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])
        return ImageFolder(self.photographs / split, transform)


class FasttrainData(L.LightningDataModule):
    def __init__(self, photographs: Path, size: int, batch_size: int) -> None:
        super().__init__()
        self.photographs, self.size = photographs, size
        self.options: dict[str, Any] = {"batch_size": batch_size, "output": "float"}

    def train_dataloader(self) -> Loader:
        device = self.trainer.strategy.root_device
        return Loader(self.photographs, crop=RandomResizedCrop(self.size), device=device, **self.options)

    def val_dataloader(self) -> Loader:
        device = self.trainer.strategy.root_device
        return Loader(self.photographs, split="val", crop=CenterCrop(self.size), device=device, **self.options)


class Classifier(L.LightningModule):
    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.model = timm.create_model("test_vit", num_classes=classes, img_size=size)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: Any, _: int) -> None:
        images, labels = batch
        self.log("top1", (self.model(images).argmax(1) == labels).float().mean(), batch_size=len(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Rate(L.Callback):
    """Print what an epoch's training took, without its validation."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.start, self.seen = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, loss: Any, batch: Any, _: int) -> None:
        self.seen += len(batch[0])
        self.seconds = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        top1, rate = trainer.callback_metrics["top1"], self.seen / self.seconds
        epoch = trainer.current_epoch + 1
        print(f"{self.name}, epoch {epoch}: top-1 {top1:.0%}, {self.seen} photographs, {rate:,.0f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--loader", choices=["torch", "fasttrain"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    for name in [args.loader] if args.loader else ["torch", "fasttrain"]:
        data = (TorchData if name == "torch" else FasttrainData)(args.photographs, args.size, args.batch_size)
        model = Classifier(len(list((args.photographs / "train").iterdir())), args.size)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        L.Trainer(max_epochs=args.epochs, callbacks=[Rate(name)], enable_model_summary=False, **quiet).fit(model, data)
