"""Metrics for one class per photograph: counted on the device in each batch, computed on the host at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.confusion import (
    DENSE_UP_TO,
    Confusion,
    class_scores,
    confusion_from_plain,
    plain_confusion,
    sparse_confusion,
)

if TYPE_CHECKING:
    import torch

    from fasttrain.ranks import Ranks

TOP_K = (1, 3, 5)
Interval: TypeAlias = tuple[float, float]
_NOT_SCALARS = ("classes", "confusion_matrix", "top1_interval")
_MOST_PENDING = 1 << 20  # cells of a sparse matrix that are kept uncounted


@dataclass(frozen=True)
class ClassResult:
    """The metrics of one class: precision, recall and F1 in [0, 1], or 0 if undefined.

    `support`: the number of photographs of the class in the split. `recall_interval`: the 95 % interval of the recall
    (see `bootstrap`), or None if it wasn't computed.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    recall_interval: Interval | None = None


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model on a split. All but `samples` and `loss` are in [0, 1].

    `samples`: the number of photographs. `loss`: the mean loss, or NaN if there was no loss function. `topK`: the share
    of photographs whose true class is among the K likeliest; it is 1 if there are at most K classes. Macro averages are
    means over the classes that occur in the split. Weighted averages weight the classes by support. `confusion_matrix`:
    counts, int64 [C, C], rows true and columns predicted; sparse for over 1,000 classes (see `confusion.Confusion`).
    `ece`: the expected calibration error at the model's temperature. `uncalibrated_ece`: the same at temperature 1.
    `top1_interval`: the 95 % interval of top1 (see `bootstrap`). `ece`, `uncalibrated_ece` and `top1_interval` are None
    if they weren't computed.
    """

    samples: int
    loss: float
    top1: float
    top3: float
    top5: float
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    classes: tuple[ClassResult, ...]
    confusion_matrix: Confusion
    ece: float | None = None
    uncalibrated_ece: float | None = None
    top1_interval: Interval | None = None

    EACH_EPOCH: ClassVar = ("top1", "macro_f1")
    """The metrics in an epoch's record, besides the loss."""

    def worst(self, count: int = 5) -> list[ClassResult]:
        """Return the `count` classes with the lowest F1, worst first. Skip those without photographs.

        Classes with the same F1 are sorted by recall, then by name.
        """
        present = [result for result in self.classes if result.support]
        return sorted(present, key=lambda result: (result.f1, result.recall, result.name))[:count]

    def scalars(self) -> dict[str, float]:
        """Return the metrics by name, without those of single classes and the matrix, for MLflow."""
        return {name: float(value) for name, value in self._scalars().items()}

    def _scalars(self) -> dict[str, float]:
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _NOT_SCALARS and getattr(self, field.name) is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation for strict JSON, with the names of the five worst classes.

        A loss that isn't finite becomes None.
        """
        return {
            **self._scalars(),
            "loss": self.loss if math.isfinite(self.loss) else None,
            **({"top1_interval": list(self.top1_interval)} if self.top1_interval else {}),
            "classes": [_plain_class(result) for result in self.classes],
            "confusion_matrix": plain_confusion(self.confusion_matrix),
            "worst_classes": [result.name for result in self.worst()],
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Evaluation:
        """Return the evaluation from which `to_dict` made `values`.

        Raises KeyError or TypeError if `values` has another form.
        """
        known = {
            field.name: values[field.name]
            for field in fields(Evaluation)
            if field.name in values or field.default is MISSING
        }
        known["loss"] = math.nan if known["loss"] is None else known["loss"]
        known["top1_interval"] = _interval(known.get("top1_interval"))
        known["classes"] = tuple(
            ClassResult(**{**result, "recall_interval": _interval(result.get("recall_interval"))})
            for result in known["classes"]
        )
        known["confusion_matrix"] = confusion_from_plain(known["confusion_matrix"], len(known["classes"]))
        return Evaluation(**known)

    # The generated method would compare arrays with `==`, which fails. Here NaN also equals NaN.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evaluation) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


class ClassificationMeter:
    """Counts predictions on `device`, and computes an `Evaluation` from the counts.

    `num_classes`: the number of classes, C. `update` never makes the host wait for the device.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        import torch

        self.num_classes = num_classes
        self._dense = num_classes <= DENSE_UP_TO
        self._matrix = torch.zeros(num_classes * num_classes if self._dense else 0, dtype=torch.int64, device=device)
        self._cells = _Cells(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        self._hits = torch.zeros(len(TOP_K), dtype=torch.int64, device=device)
        # Apple's GPUs have no float64.
        precise = torch.float32 if self._hits.device.type == "mps" else torch.float64
        self._loss_sum = torch.zeros((), dtype=precise, device=device)
        self._samples = 0
        self._samples_with_loss = 0

    def update(self, logits: torch.Tensor, labels: torch.Tensor, loss_sum: torch.Tensor | None = None) -> torch.Tensor:
        """Count a batch and return the predicted classes, int64 [n, min(5, C)], the likeliest first.

        `logits`: float [n, C]. `labels`: int64 [n] in [0, C). Both are on the meter's device. `loss_sum`: a scalar
        tensor, the loss summed over the batch. Raises IndexError for a label out of range on the CPU; on CUDA that is
        a device-side assert.
        """
        import torch

        with torch.no_grad():
            ranked = logits.topk(min(TOP_K[-1], self.num_classes), dim=1).indices
            # Not torch.bincount: on CUDA it reads the maximum of its input back, which makes the host wait.
            cells = labels * self.num_classes + ranked[:, 0]
            if self._dense:
                self._matrix.index_add_(0, cells, torch.ones_like(cells))
            else:
                self._check_labels(labels)
                self._cells.add(cells)
            right = ranked == labels[:, None]
            self._hits += torch.stack([right[:, :k].any(1).sum() for k in TOP_K])
            self._samples += len(labels)
            if loss_sum is not None:
                self._loss_sum += loss_sum.detach().to(self._loss_sum.dtype)
                self._samples_with_loss += len(labels)
        return ranked

    def merge(self, ranks: Ranks) -> None:
        """Replace the counts of each rank by the sums over all ranks. Every rank must call this."""
        import torch

        # Sum on the host in the order of ranks. Early stopping depends on the loss, so not even a bit may differ.
        counts = torch.stack(ranks.gather(torch.cat([self._matrix, self._hits]).cpu())).sum(dim=0)
        self._matrix, self._hits = counts.to(self._matrix.device).split([len(self._matrix), len(self._hits)])
        if not self._dense:
            parts = ranks.gather(self._cells.counted())
            self._cells = _Cells(*(torch.cat(column) for column in zip(*parts, strict=True)))
        others = ranks.gather((float(self._loss_sum), self._samples, self._samples_with_loss))
        loss_sums, samples, samples_with_loss = zip(*others, strict=True)
        self._loss_sum = torch.tensor(sum(loss_sums), dtype=self._loss_sum.dtype, device=self._loss_sum.device)
        self._samples, self._samples_with_loss = sum(samples), sum(samples_with_loss)

    def loss_and_accuracy(self) -> tuple[float, float]:
        """Return the mean loss and the top-1 accuracy so far, each NaN if there is none yet.

        This waits for the device once.
        """
        loss_sum, hits = float(self._loss_sum), int(self._hits[0])
        loss = loss_sum / self._samples_with_loss if self._samples_with_loss else math.nan
        return loss, hits / self._samples if self._samples else math.nan

    def compute(self, classes: Sequence[str] | None = None) -> Evaluation:
        """Return the evaluation of all batches so far.

        `classes`: the names by label, by default their numbers. Precision, recall and F1 equal scikit-learn's. Raises
        ValueError if there are no samples.
        """
        if not self._samples:
            raise ValueError("no samples to evaluate")
        names = [str(number) for number in range(self.num_classes)] if classes is None else list(classes)
        matrix = self._confusion()
        loss, accuracy = self.loss_and_accuracy()
        top1, top3, top5 = (hits / self._samples for hits in self._hits.tolist())
        return Evaluation(
            samples=self._samples,
            loss=loss,
            top1=top1,
            top3=top3,
            top5=top5,
            accuracy=accuracy,
            classes=_by_class(matrix, names),
            confusion_matrix=matrix,
            **_averages(matrix),
        )

    def _confusion(self) -> Confusion:
        if self._dense:
            dense: npt.NDArray[np.int64] = self._matrix.reshape(self.num_classes, -1).cpu().numpy().copy()
            return dense
        cells, counts = self._cells.counted()
        return sparse_confusion(cells.numpy(), counts.numpy(), self.num_classes)

    def _check_labels(self, labels: torch.Tensor) -> None:
        # A dense matrix's index raises by itself, but a sparse one would count such a label for another class.
        if labels.device.type == "cpu" and ((labels < 0) | (labels >= self.num_classes)).any():
            raise IndexError(f"a label is out of range for {self.num_classes:,} classes")


class _Cells:
    """The nonzero cells of a sparse matrix, and cells of recent batches that aren't counted yet.

    `cells`: int64 [N], on the CPU, the number of each counted cell. `counts`: int64 [N], on the CPU.
    """

    def __init__(self, cells: torch.Tensor, counts: torch.Tensor) -> None:
        self.cells, self.counts = cells, counts
        self._pending: list[torch.Tensor] = []
        self._pending_length = 0

    def add(self, cells: torch.Tensor) -> None:
        """Add one to each of `cells`, int64 [n], which may repeat."""
        self._pending.append(cells)
        self._pending_length += len(cells)
        if self._pending_length >= _MOST_PENDING:
            self.counted()

    def counted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Count the pending cells, and return all cells, each once, and their counts. This waits for the device."""
        import torch

        fresh = torch.cat([self.cells[:0], *(each.cpu() for each in self._pending)])
        cells = torch.cat([self.cells, fresh])
        weights = torch.cat([self.counts, torch.ones_like(fresh)])
        self.cells, place = torch.unique(cells, return_inverse=True)
        self.counts = torch.zeros_like(self.cells).index_add_(0, place, weights)
        self._pending, self._pending_length = [], 0
        return self.cells, self.counts


def _plain_class(result: ClassResult) -> dict[str, Any]:
    plain = asdict(result)
    interval = plain.pop("recall_interval")
    return plain if interval is None else {**plain, "recall_interval": list(interval)}


def _interval(plain: Any) -> Interval | None:
    if plain is None:
        return None
    low, high = plain
    return float(low), float(high)


def _by_class(matrix: Confusion, names: list[str]) -> tuple[ClassResult, ...]:
    precision, recall, f1 = class_scores(matrix)
    support = matrix.sum(1)
    return tuple(
        ClassResult(name, float(precision[label]), float(recall[label]), float(f1[label]), int(support[label]))
        for label, name in enumerate(names)
    )


def _averages(matrix: Confusion) -> dict[str, Any]:
    support = matrix.sum(1)
    present = support > 0
    values: dict[str, float] = {}
    for name, scores in zip(("precision", "recall", "f1"), class_scores(matrix), strict=True):
        values[f"macro_{name}"] = float(scores[present].mean())
        values[f"weighted_{name}"] = float(np.average(scores[present], weights=support[present]))
    return values
