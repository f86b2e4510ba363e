"""`--teacher`: knowledge distillation from a model that sees the same crops (Beyer et al. 2021, arXiv:2106.05237)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo, infer_imagenet_subset

from fasttrain.checkpoint.trained import load_trained
from fasttrain.config.geometry import Geometry
from fasttrain.config.model_name import is_own
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.model.criterion import Criterion, SetCrossEntropy
from fasttrain.model.factory import ModelSpec, create_model, model_spec
from fasttrain.model.input_size import img_size_for, takes
from fasttrain.model.names import pretrained_config
from fasttrain.model.own import require_logits
from fasttrain.model.precision import Autocast, make_precision
from fasttrain.text import nearest
from fasttrain.training.image_size import sides_of


@dataclass(frozen=True)
class Teacher:
    """A trained model, in eval mode and without gradients, whose probabilities the student learns.

    `name`: the value of the setting `teacher`. `spec`: the spec of the teacher's model. `sha256`: the digest of its
    tensors. `scale`, `shift`: float32 [3, 1, 1], turn the student's inputs into the teacher's: inputs * `scale` +
    `shift`; None if both models normalize alike. `temperature`: divides the logits of both models before the softmax.
    `weight`: the teacher's share of the loss, in [0, 1]; the labels have the rest.
    """

    name: str
    spec: ModelSpec
    sha256: str
    network: torch.nn.Module
    autocast: Autocast
    scale: torch.Tensor | None
    shift: torch.Tensor | None
    temperature: float = 1.0
    weight: float = 1.0

    @property
    def identity(self) -> dict[str, str]:
        """Return what a checkpoint stores about the teacher: "path", the name, and "sha256"."""
        return {"path": self.name, "sha256": self.sha256}

    def takes(self, side: int) -> bool:
        """Return whether the teacher accepts images of `side` px. False for a model that isn't one of timm's."""
        return not is_own(self.spec.name) and takes(self.spec.name, side, self.spec.img_size)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits, float [n, classes], for the student's `inputs`, float [n, 3, H, W].

        Images mixed by Mixup are converted exactly, too, because their shares add up to 1.
        """
        with torch.no_grad(), self.autocast():
            if self.scale is not None and self.shift is not None:
                inputs = inputs * self.scale + self.shift
            logits: torch.Tensor = self.network(inputs)
            return logits

    def loss(
        self,
        criterion: Criterion,
        inputs: torch.Tensor,
        logits: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """Return the student's mean loss, float [].

        The loss is `weight` * divergence + (1 - `weight`) * the `criterion`'s loss for `targets`. The divergence is the
        Kullback-Leibler divergence from the teacher's probabilities at `temperature`, times `temperature` squared.
        Class weights apply to both terms. For multi-label data the divergence is the mean over the classes, whose
        probabilities are sigmoids.
        """
        theirs, ours = (each.float() / self.temperature for each in (self.logits(inputs), logits))
        if isinstance(criterion, SetCrossEntropy):
            divergence = _set_divergence(ours, theirs, criterion.pos_weight) * self.temperature**2
        else:
            weights = None if criterion.weight is None or targets.ndim == 2 else criterion.weight[targets]
            divergence = _divergence(ours, theirs, weights, self.temperature)
        if self.weight == 1:
            return divergence
        labels: torch.Tensor = criterion(logits, targets)
        return self.weight * divergence + (1 - self.weight) * labels


def _divergence(
    ours: torch.Tensor, theirs: torch.Tensor, weights: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    theirs, ours = theirs.log_softmax(1), ours.log_softmax(1)
    divergences = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1) * temperature**2
    return divergences.mean() if weights is None else (divergences * weights).sum() / weights.sum()


def _set_divergence(ours: torch.Tensor, theirs: torch.Tensor, pos_weight: torch.Tensor | None) -> torch.Tensor:
    shares = theirs.sigmoid()
    cross, own = (F.binary_cross_entropy_with_logits(each, shares, pos_weight=pos_weight) for each in (ours, theirs))
    return cross - own


def load_teacher(config: TrainConfig, student: ModelSpec, precision: str, device: torch.device) -> Teacher | None:
    """Return the teacher that `config` names, on `device`, for the `student`. None if it names none.

    `precision` is the student's. Raises UserError if the teacher's classes or their order differ, if only one of the
    two is multi-label, or if the teacher does not accept the run's image sizes.
    """
    if (name := config.teacher) is None:
        return None
    network, spec = _of_run(name) if Path(name).exists() else _of_timm(name, student.classes, config.image_size)
    _require_classes(name, spec.classes, student.classes)
    _require_kind(name, spec.multi_label, student.multi_label)
    _require_sizes(config, network, spec)
    sha256 = _digest(network)
    network.requires_grad_(False).eval()
    network = network.to(device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    scale = shift = None
    if (spec.mean, spec.std) != (student.mean, student.std):
        mean, std, own_mean, own_std = (
            torch.tensor(each, device=device).view(3, 1, 1) for each in (student.mean, student.std, spec.mean, spec.std)
        )
        scale, shift = std / own_std, (mean - own_mean) / own_std
    return Teacher(
        name=name,
        spec=spec,
        sha256=sha256,
        network=network,
        autocast=make_precision(precision, network, device).autocast,
        scale=scale,
        shift=shift,
        temperature=config.teacher_temperature,
        weight=config.teacher_weight,
    )


def require_same_teacher(teacher: Teacher | None, saved: dict[str, Any] | None, run: Path | str | None) -> None:
    """Raise UserError if `run` began with another teacher, according to its checkpoint or diverged step `saved`."""
    then = (saved or {}).get("teacher")
    if teacher is not None and then is not None and then["sha256"] != teacher.sha256:
        raise UserError(
            f"teacher = {teacher.name} is not the one that {run} began with, {then['path']} with SHA-256 "
            f"{then['sha256'][:12]}; give --teacher the original, or start a new run"
        )


def _of_run(name: str) -> tuple[torch.nn.Module, ModelSpec]:
    try:
        return load_trained(Path(name))
    except UserError as error:
        raise UserError(f"teacher = {error}") from error


def _of_timm(name: str, classes: Sequence[str], side: int) -> tuple[torch.nn.Module, ModelSpec]:
    if is_own(name) or not timm.is_model(name.partition(".")[0]):
        raise UserError(
            f"teacher = {name}: no such run folder or checkpoint, nor a timm model"
            f"{nearest(name.lower(), timm.list_models())}"
        )
    subset = infer_imagenet_subset({"num_classes": pretrained_config(name).num_classes})
    known: list[str] = ImageNetInfo(subset).label_names() if subset else []
    _require_classes(name, known, classes)  # before the weights are downloaded
    img_size = img_size_for(name, side)
    made = create_model(name, len(known), pretrained=True, img_size=img_size)
    return made, model_spec(made, name, known, Geometry(side), img_size)


def _require_classes(name: str, known: Sequence[str], classes: Sequence[str]) -> None:
    if tuple(known) == tuple(classes):
        return
    at = next(
        (place for place, each in enumerate(classes) if place >= len(known) or known[place] != each), len(classes)
    )
    here, there = (repr(each[at]) if at < len(each) else "absent" for each in (classes, known))
    raise UserError(
        f"teacher = {name} has other classes: number {at + 1} is {here} in the data and {there} in the teacher; give a "
        "teacher that was trained on the same classes"
    )


def _require_kind(name: str, teacher_is_multi_label: bool, student_is_multi_label: bool) -> None:
    if teacher_is_multi_label != student_is_multi_label:
        kinds = (
            ("is multi-label", "the data has one class per photograph")
            if teacher_is_multi_label
            else ("predicts one class per photograph", "the data is multi-label")
        )
        raise UserError(f"teacher = {name} {', but '.join(kinds)}; give a teacher trained on such data")


def _require_sizes(config: TrainConfig, network: torch.nn.Module, spec: ModelSpec) -> None:
    if is_own(spec.name):
        require_logits(network, spec.name, len(spec.classes), sides_of(config))
        return
    for side in sorted(sides_of(config)):
        if not takes(spec.name, side, spec.img_size):
            raise UserError(
                f"teacher = {config.teacher}: its {spec.name} does not take pictures of {side} px; give --image-size "
                f"{spec.image_size}, or another teacher"
            )


def _digest(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
