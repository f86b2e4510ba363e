"""A run's folder: the one place that knows what each file in it is called."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.checkpoint.weights import WEIGHTS
from fasttrain.config.monitor import MONITORS
from fasttrain.errors import UserError, mendable, of_os
from fasttrain.files import atomic_write, atomic_write_bytes, fsync_folder, make_folder, temporary_for
from fasttrain.version import __version__

if TYPE_CHECKING:
    import torch

    from fasttrain.model.factory import ModelSpec

MODEL_SCHEMA = 1


class RunFolder:
    """`RUNS/YYYYmmdd-HHMMSS-MODEL`; every file in it is written whole or not at all.

    The `write_` methods raise OSError where the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / WEIGHTS
        self.model_spec = path / "model.json"
        self.class_to_idx = path / "class_to_idx.json"
        self.config = path / "config.toml"
        self.history = path / "history.json"
        self.evaluation = path / "evaluation.json"
        self.predictions = path / "predictions.npz"
        self.confusion_matrix = path / "confusion_matrix.png"
        self.curves = path / "curves.png"
        self.accuracy_by_class = path / "accuracy_by_class.png"
        self.precision_by_class = path / "precision_by_class.png"
        self.reliability = path / "reliability.png"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.log = path / "train.log"
        self.trace = path / "trace.json.gz"

    @classmethod
    def create(cls, runs: Path, model: str, now: datetime | None = None) -> RunFolder:
        """Makes a folder that no other run has, with `checkpoints/` in it: `-2`, `-3` … within one second.

        Raises UserError where it can't be made.
        """
        stamp = f"{now or datetime.now():%Y%m%d-%H%M%S}"
        name = f"{stamp}-{re.sub(r'[^A-Za-z0-9._-]+', '-', model.removesuffix('()'))}"
        try:
            make_folder(runs)
            number = 1
            while True:
                folder = cls(runs / (name if number == 1 else f"{name}-{number}"))
                try:
                    folder.path.mkdir()
                except FileExistsError:
                    number += 1
                    continue
                fsync_folder(runs)
                make_folder(folder.checkpoints)
                return folder
        except OSError as error:
            raise of_os(error, mend="choose another --out") from error

    def artifacts(self) -> list[Path]:
        """The files that are there for people and for `predict`, in the order of their making; no
        checkpoints."""
        ordered = [
            self.config,
            self.class_to_idx,
            self.model_spec,
            self.trace,
            self.model,
            self.history,
            self.predictions,
            self.evaluation,
        ]
        return [path for path in ordered if path.exists()] + self.pictures()

    def pictures(self) -> list[Path]:
        """Of the artifacts those that are to be looked at."""
        ordered = [self.curves, self.confusion_matrix, self.accuracy_by_class, self.precision_by_class]
        ordered += [self.reliability, self.report]
        return [path for path in ordered if path.exists()]

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """The resolved settings as TOML, which has no null: those that are None are left out."""
        import tomli_w

        known = {name: value for name, value in settings.items() if value is not None}
        atomic_write_bytes(self.config, tomli_w.dumps(known).encode())

    def write_classes(self, classes: Sequence[str]) -> None:
        """`class_to_idx.json`: each class's label."""
        _write_json(self.class_to_idx, {name: label for label, name in enumerate(classes)})

    def write_model_spec(self, spec: ModelSpec) -> None:
        """`model.json`: what rebuilds the model and feeds it, and the versions that it was trained with."""
        _write_json(
            self.model_spec,
            {
                "schema": MODEL_SCHEMA,
                "model": spec.name,
                "num_classes": len(spec.classes),
                "image_size": spec.image_size,
                "img_size": spec.img_size,
                "crop_pct": spec.geometry.crop_pct,
                "resize_mode": spec.geometry.resize_mode,
                "interpolation": spec.geometry.interpolation,
                "mean": list(spec.mean),
                "std": list(spec.std),
                "temperature": spec.temperature,
                "classes": list(spec.classes),
                **({"multi_label": True, "thresholds": spec.thresholds} if spec.multi_label else {}),
                **({} if spec.reject_threshold is None else {"reject_threshold": spec.reject_threshold}),
                "versions": {
                    "fasttrain": __version__,
                    "timm": version("timm"),
                    "torch": version("torch"),
                },
            },
        )

    def write_reject_threshold(self, threshold: float) -> None:
        """Put the threshold into `model.json`, and leave the rest of it as it is."""
        known = json.loads(self.model_spec.read_text(encoding="utf-8"))
        _write_json(self.model_spec, {**known, "reject_threshold": threshold})

    def write_model(self, model: torch.nn.Module) -> None:
        """The model's `state_dict` as safetensors, on the CPU, each tensor contiguous and by itself."""
        self.write_weights(model.state_dict())

    def write_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """`write_model` of a model whose `state_dict` is `weights`."""
        from safetensors.torch import save

        # safetensors refuses tensors that share memory (tied weights): each gets its own, so that any loader
        # fits.
        seen: set[int] = set()
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in weights.items():
            alone = tensor.detach().cpu().contiguous()
            if alone.untyped_storage().data_ptr() in seen:
                alone = alone.clone()
            seen.add(alone.untyped_storage().data_ptr())
            tensors[name] = alone
        atomic_write_bytes(self.model, save(tensors, metadata={"format": "pt"}))

    def read_weights(self) -> dict[str, torch.Tensor] | None:
        """The tensors of `model.safetensors`; None where it is absent or torn."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.model)
        except (OSError, SafetensorError):
            return None

    def reopen(self) -> None:
        """Removes what says that the run has ended, and how: it goes on. OSError where that can't be removed."""
        for path in (self.evaluation, self.predictions, *self.pictures()):
            if path.is_file():
                path.unlink()
        fsync_folder(self.path)

    def read_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """Puts the saved weights into `model`, where it is, and returns it.

        Raises UserError for a file that is torn, missing or another model's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            model.load_state_dict(load_file(self.model))
        except (OSError, SafetensorError, RuntimeError) as error:
            if (refused := mendable(error, self.model)) is not None:
                raise refused from error
            why = str(error).splitlines()[0]
            raise UserError(f"{self.model}: does not hold this run's weights ({why}); train again") from error
        return model

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One record an epoch."""
        _write_json(self.history, list(history))

    def write_evaluation(
        self,
        evaluation: Mapping[str, Any],
        *,
        split: str,
        seconds: float,
        best_epoch: int,
        monitor: str,
        monitored: float,
        averaged: tuple[Sequence[int], float] | None = None,
        refit_epochs: int = 0,
    ) -> None:
        """Write `Evaluation.to_dict()` with its split, the training time in seconds and the weights' epoch, from 1.

        `monitor` is the metric that chose the epoch, `monitored` its value then. `averaged`: the epochs
        whose weights were averaged, and the metric's value. `refit_epochs`: how long
        they were trained once more on train and val; 0 where they weren't.
        """
        field = MONITORS[monitor].field
        _write_json(
            self.evaluation,
            {
                "split": split,
                "best_epoch": best_epoch,
                "monitor": monitor,
                f"best_epoch_{field}": monitored,
                **({"refit_epochs": refit_epochs} if refit_epochs else {}),
                **({"averaged_epochs": list(averaged[0]), f"averaged_{field}": averaged[1]} if averaged else {}),
                "training_seconds": seconds,
                **evaluation,
            },
        )

    def write_trace(self, export: Callable[[str], None]) -> None:
        """`trace.json.gz`, of the JSON that `export` writes to the path that it is given."""
        import gzip
        import shutil

        # Not packed by torch: it does so in the system's temporary folder, and says nothing where that is full.
        temporary = temporary_for(self.path / "trace.json")
        try:
            export(str(temporary))
            with temporary.open("rb") as plain:
                plain.seek(-min(64, temporary.stat().st_size), os.SEEK_END)
                if not plain.read().rstrip().endswith(b"}"):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.trace))
                plain.seek(0)
                with atomic_write(self.trace) as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
                    shutil.copyfileobj(plain, packed)
        finally:
            temporary.unlink(missing_ok=True)


def _write_json(path: Path, value: Any) -> None:
    atomic_write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
