"""The same training as a plain Lightning script: python lightning_script.py DATA EPOCHS BATCH WORKERS."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning
import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read(path: str) -> torch.Tensor:
    return decode_image(path, ImageReadMode.RGB)


class Classifier(lightning.LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = timm.create_model("mobilenetv2_100", num_classes=classes).to(memory_format=torch.channels_last)

    def _loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        logits = self.model(images.contiguous(memory_format=torch.channels_last))
        return torch.nn.functional.cross_entropy(logits, labels)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self._loss(batch)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def main() -> None:
    data, epochs, batch, workers = Path(sys.argv[1]), *(int(each) for each in sys.argv[2:5])
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    crops = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), *last])
    centre = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), *last])
    parts = {"train": ImageFolder(str(data / "train"), crops, loader=read)}
    parts["val"] = ImageFolder(str(data / "val"), centre, loader=read)
    loaders = {
        name: DataLoader(part, batch, shuffle=name == "train", num_workers=workers, persistent_workers=True)
        for name, part in parts.items()
    }
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        default_root_dir=data.parent / "lightning",
    )
    trainer.fit(Classifier(len(parts["train"].classes)), loaders["train"], loaders["val"])


if __name__ == "__main__":
    main()
