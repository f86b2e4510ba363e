"""`fasttrain.Loader` in frameworks that keep its place in their checkpoints: they resume at the very next batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fasttrain import Loader

pytestmark = pytest.mark.slow
EPOCH = 78  # photographs, in five batches


class Model(torch.nn.Module):
    """A model that writes down the photographs it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 6)
        self.ids: list[int] = []

    def forward(self, images: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        self.ids += ids.tolist()
        logits = self.layer(images.float().mean((1, 2)) / 255)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)}


class NamedBatches(Loader):
    def __iter__(self) -> Iterator[Any]:
        return ({"images": images, "labels": labels, "ids": ids} for images, labels, ids in super().__iter__())


def loader_of(shards: Path, kind: type[Loader] = Loader) -> Loader:
    return kind(shards, batch_size=16, crop=32, seed=1, workers=1, with_ids=True)


@pytest.fixture(scope="module")
def expected(shard_folder: Path) -> list[int]:
    """The photographs of two epochs, in order."""
    with loader_of(shard_folder) as loader:
        assert len(loader) == 5
        return [each for _ in range(2) for _, _, ids in loader for each in ids.tolist()]


@pytest.mark.parametrize(
    ("when", "done"),
    [({"every_n_train_steps": 3}, 48), ({"every_n_train_steps": 5}, EPOCH), ({"every_n_epochs": 1}, EPOCH)],
)
def test_lightning(when: dict[str, int], done: int, shard_folder: Path, expected: list[int], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.model(*batch)["loss"]

        def train_dataloader(self) -> Loader:
            return loader_of(shard_folder)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(checkpoint: str | None = None) -> list[int]:
        module = Module()
        keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=2, callbacks=[keep], **quiet)
        trainer.fit(module, ckpt_path=checkpoint)
        return module.model.ids

    assert fit() == expected
    first = min(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    assert fit(str(first)) == expected[done:]


def test_fabric(shard_folder: Path, expected: list[int], tmp_path: Path) -> None:
    fabric = pytest.importorskip("lightning").Fabric(accelerator="cpu")
    first, second = loader_of(shard_folder), loader_of(shard_folder)
    ids = [ids for _, (_, _, ids) in zip(range(3), first, strict=False)]
    fabric.save(tmp_path / "state", {"loader": first})
    fabric.load(tmp_path / "state", {"loader": second})
    ids += [ids for _ in range(2) for _, _, ids in second]
    assert torch.cat(ids).tolist() == expected


@pytest.mark.parametrize(("stop", "done"), [(3, 48), (5, EPOCH)])
def test_hugging_face(stop: int, done: int, shard_folder: Path, expected: list[int], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Loader:
            return self.train_dataset

    class KeepPlace(transformers.TrainerCallback):
        """The callback of docs/how-to/frameworks.md."""

        def on_save(self, args: Any, state: Any, control: Any, train_dataloader: Loader, **_: Any) -> None:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            (folder / "loader.json").write_text(json.dumps(train_dataloader.state_dict()))

    def fit(resume: Path | None = None) -> list[int]:
        model, train = Model(), loader_of(shard_folder, NamedBatches)
        if resume is not None:
            train.load_state_dict(json.loads((resume / "loader.json").read_text()))
        settings = transformers.TrainingArguments(
            str(tmp_path),
            max_steps=10,
            save_steps=stop,
            ignore_data_skip=True,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(model, settings, train_dataset=train, callbacks=[KeepPlace()])
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return model.ids

    assert fit() == expected
    assert fit(tmp_path / f"checkpoint-{stop}") == expected[done:]
