"""A run's folder: the only place that knows the names of its files."""

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

from fasttrain.checkpoint.spec_file import MODEL_SCHEMA
from fasttrain.checkpoint.weights import WEIGHTS
from fasttrain.config.monitor import MONITORS
from fasttrain.errors import UserError, fixable, of_os
from fasttrain.files import atomic_write, atomic_write_bytes, fsync_folder, make_folder, temporary_for
from fasttrain.version import __version__

if TYPE_CHECKING:
    import torch

    from fasttrain.model.factory import ModelSpec

PROVENANCE_SCHEMA = 1


class RunFolder:
    """The folder `RUNS/YYYYmmdd-HHMMSS-MODEL`. Every file in it is written completely or not at all.

    The `write_` methods raise OSError if the folder can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / WEIGHTS
        self.model_spec = path / "model.json"
        self.class_to_idx = path / "class_to_idx.json"
        self.config = path / "config.toml"
        self.provenance = path / "provenance.json"
        self.history = path / "history.json"
        self.evaluation = path / "evaluation.json"
        self.predictions = path / "predictions.npz"
        self.confusion_matrix = path / "confusion_matrix.png"
        self.curves = path / "curves.png"
        self.accuracy_by_class = path / "accuracy_by_class.png"
        self.precision_by_class = path / "precision_by_class.png"
        self.reliability = path / "reliability.png"
        self.mistakes = path / "mistakes.csv"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.log = path / "train.log"
        self.trace = path / "trace.json.gz"

    @classmethod
    def create(cls, runs: Path, model: str, now: datetime | None = None) -> RunFolder:
        """Create a new run folder in `runs`, with `checkpoints/` in it.

        `model`: the model's name, which becomes part of the folder's name. If another run has taken the name, `-2`,
        `-3`, … is added. Raises UserError if the folder can't be created.
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
            raise of_os(error, fix="choose another --out") from error

    def artifacts(self) -> list[Path]:
        """Return the existing files of results (settings, model, figures, …), in the order in which a run writes them.

        Checkpoints are left out.
        """
        ordered = [
            self.config,
            self.provenance,
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
        """Return the existing figures, the table of mistakes and the report."""
        ordered = [self.curves, self.confusion_matrix, self.accuracy_by_class, self.precision_by_class]
        ordered += [self.reliability, self.mistakes, self.report]
        return [path for path in ordered if path.exists()]

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write `settings` to `config.toml`. Settings that are None are left out, because TOML has no null."""
        import tomli_w

        known = {name: value for name, value in settings.items() if value is not None}
        atomic_write_bytes(self.config, tomli_w.dumps(known).encode())

    def add_start(self, start: Mapping[str, Any]) -> None:
        """Add `start`, a result of `Provenance.to_dict`, to `provenance.json`.

        The file has an entry for each process that began or resumed the run. A damaged file is replaced.
        """
        try:
            known = json.loads(self.provenance.read_bytes())
            known["starts"].append(start)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            known = {"schema": PROVENANCE_SCHEMA, "starts": [start]}
        _write_json(self.provenance, known)

    def write_classes(self, classes: Sequence[str]) -> None:
        """Write `class_to_idx.json`, which maps the name of each class to its label, the position in `classes`."""
        _write_json(self.class_to_idx, {name: label for label, name in enumerate(classes)})

    def write_model_spec(self, spec: ModelSpec) -> None:
        """Write `model.json`: `spec`, from which the model can be rebuilt, and the versions of timm and torch."""
        from fasttrain.model.hub import hub_model, repository

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
                **({"hub": hub_model(spec.name).to_dict()} if repository(spec.name) else {}),
                **({} if spec.reject_threshold is None else {"reject_threshold": spec.reject_threshold}),
                "versions": {
                    "fasttrain": __version__,
                    "timm": version("timm"),
                    "torch": version("torch"),
                },
            },
        )

    def write_reject_threshold(self, threshold: float) -> None:
        """Write `threshold`, a probability, into `model.json` without changing its other fields."""
        known = json.loads(self.model_spec.read_text(encoding="utf-8"))
        _write_json(self.model_spec, {**known, "reject_threshold": threshold})

    def write_model(self, model: torch.nn.Module) -> None:
        """Write the `state_dict` of `model` to `model.safetensors`."""
        self.write_weights(model.state_dict())

    def write_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Write `weights`, a `state_dict`, to `model.safetensors`. Tensors may share memory and be on any device."""
        from safetensors.torch import save

        # safetensors refuses tensors that share memory (tied weights), so each gets its own.
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
        """Return the tensors of `model.safetensors`, or None if the file is missing or torn."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.model)
        except (OSError, SafetensorError):
            return None

    def reopen(self) -> None:
        """Delete the evaluation, the predictions, the figures and the report, because the run continues.

        The run then counts as unfinished. Raises OSError if a file can't be deleted.
        """
        for path in (self.evaluation, self.predictions, *self.pictures()):
            if path.is_file():
                path.unlink()
        fsync_folder(self.path)

    def read_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """Load `model.safetensors` into `model`, on the model's device, and return `model`.

        Raises UserError if the file is damaged, missing or from another model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            model.load_state_dict(load_file(self.model))
        except (OSError, SafetensorError, RuntimeError) as error:
            if (refused := fixable(error, self.model)) is not None:
                raise refused from error
            why = str(error).splitlines()[0]
            raise UserError(f"{self.model} does not hold this run's weights ({why}); train again") from error
        return model

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write `history`, a list with one record per epoch, to `history.json`."""
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
        """Write `evaluation.json`, which marks the run as finished.

        `evaluation`: the result of `Evaluation.to_dict()`. `split`: the split that was evaluated. `seconds`: the
        training time. `best_epoch`: the best epoch, from 1. `monitor`: the metric that chose this epoch. `monitored`:
        the metric's value in this epoch. `averaged`: if the weights are an average, its epochs and its value of the
        metric. `refit_epochs`: for how many epochs the model was trained again on train and val, or 0.
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
        """Write `trace.json.gz`. `export`: called with the path to which it must write the trace as JSON."""
        import gzip
        import shutil

        # Torch would compress it in the system's temporary folder, and gives no error if that is full.
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
