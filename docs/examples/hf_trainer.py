"""Train with Hugging Face's Trainer: `python hf_trainer.py PHOTOGRAPHS`, which has `train/CLASS` and `val/CLASS`.

Prints images/s with torch's DataLoader, then with fasttrain's Loader; `--loader` chooses one of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import ConvNextConfig, ConvNextForImageClassification, Trainer, TrainerCallback, TrainingArguments

from fasttrain import CenterCrop, Loader, RandomResizedCrop


class CountingTrainer(Trainer):
    """The Trainer, with a count of the photographs it trains on."""

    seen = 0

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *more: Any) -> torch.Tensor:
        self.seen += len(inputs["labels"])
        return super().training_step(model, inputs, *more)


def torch_trainer(model: torch.nn.Module, settings: TrainingArguments, asked: argparse.Namespace) -> CountingTrainer:
    def dataset(split: str, *crop: Any) -> ImageFolder:
        normalize = v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        transform = v2.Compose([*crop, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])
        return ImageFolder(asked.photographs / split, transform)

    def collate(samples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        images, labels = zip(*samples, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    train = dataset("train", v2.RandomResizedCrop(asked.size), v2.RandomHorizontalFlip())
    val = dataset("val", v2.Resize(round(asked.size / 0.875)), v2.CenterCrop(asked.size))
    return CountingTrainer(model, settings, collate, train, val, callbacks=[Rate("torch")])


class NamedBatches(Loader):
    """Batches as Hugging Face's models take them."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"pixel_values": images, "labels": labels} for images, labels in super().__iter__())


class FasttrainTrainer(CountingTrainer):
    def get_train_dataloader(self) -> Loader:
        return self.train_dataset

    def get_eval_dataloader(self, eval_dataset: Loader | None = None) -> Loader:
        return self.eval_dataset if eval_dataset is None else eval_dataset


def fasttrain_trainer(
    model: torch.nn.Module, settings: TrainingArguments, asked: argparse.Namespace
) -> CountingTrainer:
    batches = {"batch_size": asked.batch_size, "device": settings.device, "output": "float"}
    train = NamedBatches(asked.photographs, crop=RandomResizedCrop(asked.size), **batches)
    val = NamedBatches(asked.photographs, split="val", crop=CenterCrop(asked.size), **batches)
    return FasttrainTrainer(model, settings, None, train, val, callbacks=[Rate("fasttrain")])


class Rate(TrainerCallback):
    """Print what an epoch's training took, without its evaluation."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start, self.before = time.perf_counter(), trainer.seen

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seen = trainer.seen - self.before
        rate = seen / (time.perf_counter() - self.start)
        print(f"{self.name}, epoch {round(state.epoch)}: {seen} photographs, {rate:,.0f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--loader", choices=["torch", "fasttrain"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    classes = len(list((args.photographs / "train").iterdir()))
    for name in [args.loader] if args.loader else ["torch", "fasttrain"]:
        with tempfile.TemporaryDirectory() as out:
            config = ConvNextConfig(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_labels=classes)
            settings = TrainingArguments(
                out,
                num_train_epochs=args.epochs,
                per_device_train_batch_size=args.batch_size,
                learning_rate=1e-3,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_num_workers=os.cpu_count() or 1,
                dataloader_persistent_workers=True,
            )
            make = torch_trainer if name == "torch" else fasttrain_trainer
            model = ConvNextForImageClassification(config)
            trainer = make(model, settings, args)
            trainer.train()
