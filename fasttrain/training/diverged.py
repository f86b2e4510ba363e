"""The file left by a diverged run: the batch at which it diverged and the weights before it, for `fasttrain replay`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fasttrain.errors import Diverged, UserError, fixable
from fasttrain.files import atomic_write_bytes
from fasttrain.model.criterion import validation_criterion
from fasttrain.training.finite import DivergenceCause, StepDiverged, non_finite

if TYPE_CHECKING:
    from fasttrain.loaders.base import Loader
    from fasttrain.training.parts import RunParts

SCHEMA = 1
NAME = "diverged.safetensors"
_MOST_BATCHES = 16  # the last ones of an accumulation group

Batches = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class DivergedStep:
    """The batches of a step that diverged, and everything needed to run it again.

    `batches`: images, uint8 [n, H, W, 3], labels and ids of each batch, as the loader gave them. With gradient
    accumulation there may be several batches; the last one is the one at which the step diverged. `weights`: the
    model's state_dict before the step. `rng`: the states of torch's generators before the last batch, see `BatchNote`;
    empty for a validation. `class_weights`: float32 [classes], or None if the loss has none. `facts`: JSON data about
    the step: its number, loss, learning rate, precision and settings (see `_facts`).
    """

    batches: Batches
    weights: dict[str, torch.Tensor]
    rng: tuple[torch.Tensor, ...]
    class_weights: torch.Tensor | None
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the step to `path`, a safetensors file. Raises OSError if it can't be written."""
        tensors = {f"model.{name}": each for name, each in self.weights.items()}
        for number, parts in enumerate(self.batches):
            tensors |= {
                f"batch.{number:02}.{name}": each for name, each in zip(("images", "labels", "ids"), parts, strict=True)
            }
        tensors |= {f"rng.{number}": each for number, each in enumerate(self.rng)}
        if self.class_weights is not None:
            tensors["class_weights"] = self.class_weights
        # tied weights share memory, which safetensors refuses
        plain = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
        atomic_write_bytes(path, save(plain, {"diverged": json.dumps({"schema": SCHEMA, **self.facts})}))

    @staticmethod
    def load(path: Path) -> DivergedStep:
        """Return the step in a file that `save` wrote. Raises UserError for any other file. Reading never runs code."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a run's folder or its {NAME}")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["diverged"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(
                f"{path}: not the file of a diverged step ({reason}); give a run's folder or its {NAME}"
            ) from error
        if not isinstance(facts, dict) or not isinstance(facts.get("schema"), int):
            raise UserError(f"{path}: not the file of a diverged step; give a run's folder or its {NAME}")
        if facts["schema"] > SCHEMA:
            raise UserError(f"{path}: schema {facts['schema']} is newer than this fasttrain's {SCHEMA}; upgrade it")

        def of(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}

        parts, rng = of("batch."), of("rng.")
        try:
            batches: Batches = [
                (parts[f"{number:02}.images"], parts[f"{number:02}.labels"], parts[f"{number:02}.ids"])
                for number in range(len(parts) // 3)
            ]
        except KeyError as error:
            raise UserError(f"{path}: a part of the batch is missing ({error}); train again") from None
        return DivergedStep(
            batches, of("model."), tuple(rng[name] for name in sorted(rng)), tensors.get("class_weights"), facts
        )


def find_diverged(where: Path) -> Path:
    """Return the path of the file that a diverged run left. `where` is the run's folder or the file itself.

    If several ranks left a file in the folder, the first is returned. Raises UserError if there is none.
    """
    if not where.is_dir():
        return where
    found = sorted(where.glob("diverged*.safetensors"))
    if not found:
        raise UserError(f"{where}: no {NAME} in it; only a run that diverged leaves one")
    return found[0]


@contextmanager
def kept_if_diverged(run: RunParts, folder: Path) -> Iterator[None]:
    """Catch a divergence of `run` in this context: save the batch in `folder`, and raise Diverged.

    A run diverges in a step or in a validation. The message of the error names the saved file and the fix.
    """
    try:
        yield
    except StepDiverged as error:
        kind, message = error.cause.kind, str(error)
        if kind in ("gradient", "scale"):  # all ranks raise these; a rank whose own loss is not finite reports first
            run.ranks.agree()
        try:
            path = _keep(run, error.cause, folder)
        except Exception as why:  # the user must be told about the divergence, even if this fails
            path = None
            message += f" (its batch could not be saved: {fixable(why) or why or type(why).__name__})"
        if path is not None:
            message += f"; {path} holds the batch: `fasttrain replay {shlex.quote(str(folder))}` shows the cause"
        elif kind == "validation":
            run.ranks.agree()
        raise Diverged(message) from error


def _keep(run: RunParts, cause: DivergenceCause, folder: Path) -> Path | None:
    """Write the faulty batch into `folder`. Return the file's path, or None if this rank has no such batch."""
    if cause.kind == "validation":
        model: torch.nn.Module = run.state.evaluated_model
        batches = _broken_validation_batch(run, model)
    else:
        model = run.state.model
        batches = _read_again(run, cause)
    if not batches:
        return None
    weights = model.state_dict()
    learned = {name for name, _ in model.named_parameters()}
    broken = non_finite(weights)
    ids = torch.cat([ids for _, _, ids in batches])
    step = DivergedStep(
        batches,
        weights,
        cause.note.rng if cause.note else (),
        run.step.class_weights,
        {
            **_facts(run, cause),
            "keys": [run.shards.index[int(each)]["key"].decode() for each in ids],
            "broken_weights": [name for name in broken if name in learned],
            "broken_buffers": [name for name in broken if name not in learned],
        },
    )
    path = folder / (NAME if run.ranks.main else f"diverged-rank{run.ranks.rank}.safetensors")
    step.save(path)
    return path


def _facts(run: RunParts, cause: DivergenceCause) -> dict[str, Any]:
    """Return what is known about the step as JSON data. Numbers that are not finite become text, such as "nan"."""
    note, config, spec = cause.note, run.config, run.spec
    return {
        "kind": cause.kind,
        "loss": repr(cause.loss),
        "gradient": None if cause.gradient is None else repr(cause.gradient),
        "epoch": run.state.epoch,
        "step": note.step if note else run.state.step,
        "learning_rate": note.learning_rate if note else run.state.schedule.learning_rate,
        "phase": run.state.phase,
        "on_features": run.on_features,
        "precision": run.precision.name,
        "scale": cause.scale,
        "device": str(run.device),
        "rank": run.ranks.rank,
        "config": config.plain(),
        "classes": list(spec.classes),
        "multi_label": spec.multi_label,
        "mean": list(spec.mean),
        "std": list(spec.std),
        **({"teacher": teacher.identity} if (teacher := run.step.teacher) else {}),
    }


def _read_again(run: RunParts, cause: DivergenceCause) -> Batches:
    """Return the faulty batch, read again with the run's own loader.

    The epoch's plan gives the same batch again, so no step has to keep its own.
    """
    note, loader = cause.note, run.state.loader
    assert note is not None
    start = note.begin
    if cause.kind != "loss":  # any batch of the accumulation group may be the cause
        most = _MOST_BATCHES * loader.settings.batch_size * loader.settings.world_size
        start = max(note.step_begin, note.end - most)
    loader.load_state_dict({"epoch": note.epoch, "samples": start})
    return [each for each in _until(loader, note.end) if len(each[1])]


def _until(loader: Loader, delivered: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield batches of `loader` until it has delivered this many samples of the epoch over all ranks."""
    with closing(iter(loader)) as batches:  # type: ignore[type-var]
        for images, labels, ids in batches:
            yield images.clone(), labels, ids
            if loader.state_dict()["samples"] >= delivered:
                return


def _broken_validation_batch(run: RunParts, model: torch.nn.Module) -> Batches:
    """Return this rank's first validation batch whose loss is not finite, or an empty list."""
    model.eval()
    criterion = validation_criterion(multi_label=run.spec.multi_label)
    with torch.inference_mode(), closing(iter(run.loaders.val)) as batches:  # type: ignore[type-var]
        for images, labels, ids in batches:
            if not len(labels):
                continue
            with run.step.autocast():
                logits = model(run.step.preprocess(images.to(run.device)))
            if not torch.isfinite(criterion(logits.float(), labels.to(run.device))):
                return [(images.clone(), labels, ids)]
    return []
