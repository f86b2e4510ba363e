"""The state that changes while training, all in one place, so that checkpoints are complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from fasttrain.checkpoint.packing import snapshot
from fasttrain.loaders.base import Loader
from fasttrain.model.batch_norm import counting_norms
from fasttrain.ranks import Ranks
from fasttrain.training.early_stopping import EarlyStopping
from fasttrain.training.ema import Ema
from fasttrain.training.finite import FiniteCheck, StepDiverged
from fasttrain.training.optim import Schedule
from fasttrain.training.optimizer_state import load_optimizer, parameter_names
from fasttrain.training.pace import Pace
from fasttrain.training.seeds import load_rng_state, rng_state, seed_rank
from fasttrain.training.soup import Candidate, Candidates

HEAD, FULL, REFIT = "head", "full", "refit"
"""The phases of a run: only the classifier trains; everything not frozen trains; the same again on train and val."""


class Totals:
    """Sums over this rank's samples of an epoch, kept on the device so that no step waits for them.

    `accuracy` names the metric that counts right answers: "top1", or "subset_accuracy" for multi-label data.
    """

    def __init__(self, device: torch.device, *, multi_label: bool = False) -> None:
        self.accuracy = "subset_accuracy" if multi_label else "top1"
        # loss sum, correct, samples (kept in `_samples`), skipped steps
        self._sums = torch.zeros(4, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self._samples = 0

    def update(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weight: float) -> None:
        """Add a batch: its mean `loss`, float [], its `logits`, float [n, classes], and its `labels`.

        `labels` are int64 [n] or float [n, classes]. After Mixup or CutMix they are shares, and the class with the
        greatest share counts as the right one. A multi-label photograph is right if the logits of all its classes are
        positive and all other logits are not. `weight` is the divisor of the mean loss: n, or with class weights the
        sum of the samples' weights.
        """
        if self.accuracy == "subset_accuracy":
            correct = ((logits > 0) == (labels > 0.5)).all(dim=1).sum()
        else:
            if labels.ndim == 2:
                labels = labels.argmax(dim=1)
            correct = (logits.argmax(dim=1) == labels).sum()
        self._sums[0].add_(loss.detach(), alpha=weight)
        self._sums[1].add_(correct)
        self._samples += len(labels)

    def skipped(self, norm: torch.Tensor, ranks: int) -> None:
        """Count a step that GradScaler skips, because the `norm` of its gradient on all `ranks` is not finite."""
        self._sums[3].add_((norm - norm) != 0, alpha=1 / ranks)  # True if it is not finite

    def skipped_steps(self) -> int:
        """Return the number of skipped steps. Waits for the device."""
        return round(self._sums[3].item())

    def samples(self) -> int:
        """Return the number of samples."""
        return self._samples

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the share of right answers over the samples so far. Waits for the device."""
        loss, correct, *_ = self._sums.tolist()
        return loss / max(self._samples, 1), correct / max(self._samples, 1)

    @property
    def device(self) -> torch.device:
        return self._sums.device

    def begin_anew(self) -> Totals:
        """Return empty sums of the same kind."""
        return Totals(self.device, multi_label=self.accuracy == "subset_accuracy")

    def over(self, ranks: Ranks) -> Totals:
        """Return the sums over all `ranks`."""
        everyones = self.begin_anew()
        everyones.load_state_dict(torch.stack(ranks.gather(self.state_dict().cpu())).sum(dim=0))
        return everyones

    def state_dict(self) -> torch.Tensor:
        sums = self._sums.clone()
        sums[2] = self._samples
        return sums

    def load_state_dict(self, sums: torch.Tensor) -> None:
        self._sums[: len(sums)].copy_(sums)  # older checkpoints have no skipped steps
        self._samples = round(float(sums[2]))


@dataclass
class TrainingState:
    """The state of a training run.

    `epoch`: the number of finished epochs. `step`: the number of optimizer steps made. `seconds`: the training time of
    all processes of the run, one after the other. `epoch_seconds`, `epoch_wait`: the seconds of the current epoch, and
    those spent waiting for data. `phase`: `HEAD`, `FULL` or `REFIT`. `phase_step`, `phase_epoch`: the step and the
    epoch at which the phase began. `optimizer_kind`: the optimizer's name in the settings. `history`: one record per
    epoch, as in `history.json`. `pace`: with `--minutes`, the progress that the schedule follows; otherwise None.

    On rank 0's host, and None on other ranks: `best`, the best epoch's weights, None before the first epoch ends or if
    a checkpoint of an older version lacks them; `initial`, the weights with which a run that will be refitted began.
    `candidates`: the epochs whose weights may be averaged.
    """

    model: torch.nn.Module
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    early_stopping: EarlyStopping
    totals: Totals
    loader: Loader
    optimizer_kind: str
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    epoch_wait: float = 0.0
    phase: str = FULL
    phase_step: int = 0
    phase_epoch: int = 0
    candidates: Candidates = field(default_factory=lambda: Candidates(0, "val_loss"), repr=False)
    history: list[dict[str, Any]] = field(default_factory=list)
    pace: Pace | None = None
    best: dict[str, torch.Tensor] | None = field(default=None, repr=False)
    initial: dict[str, torch.Tensor] | None = field(default=None, repr=False)
    _best_step: int = -1
    finite_check: FiniteCheck = field(init=False, repr=False)

    _STATEFUL = ("model", "schedule", "scaler", "early_stopping", "totals", "loader")
    _PLAIN = ("epoch", "step", "seconds", "epoch_seconds", "epoch_wait", "history")
    _PHASE = ("phase", "phase_step", "phase_epoch")

    def __post_init__(self) -> None:
        self.finite_check = FiniteCheck(self.totals.device)

    def require_finite(self) -> None:
        """Raise StepDiverged if a loss or gradient since the last call was not finite, or fp16's loss scale too low.

        Waits for the device.
        """
        if cause := self.finite_check.look(self.scaler):
            raise StepDiverged(
                cause, self.epoch, cause.note.learning_rate if cause.note else self.schedule.learning_rate
            )

    @cached_property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The model's parameters, in a list that is made only once, because making it takes long for a step."""
        return list(self.model.parameters())

    @cached_property
    def norms(self) -> list[torch.nn.Module]:
        """The model's BatchNorm layers whose batches can be counted together."""
        return counting_norms(self.model)

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The model that is validated, saved and exported.

        It is the EMA, if there is one and the first epochs, which train only the head, are over. Otherwise it is
        `model`.
        """
        return self.model if self.ema is None or self.phase == HEAD else self.ema.module

    def begin_phase(self, phase: str) -> None:
        """Begin `phase` at the current step and epoch. The EMA, if any, begins anew with the model's weights."""
        self.phase, self.phase_step, self.phase_epoch = phase, self.step, self.epoch
        self._best_step = -1
        if self.ema is not None:
            self.ema.module.load_state_dict(self.model.state_dict())

    def average(self) -> None:
        """Update the EMA after a step. Does nothing without an EMA, or while the classifier trains alone."""
        if self.ema is not None and self.phase != HEAD:
            self.ema.update(self.model, step=self.step - self.phase_step)

    @property
    def at_end_of_epoch(self) -> bool:
        """Return whether an epoch has just ended and the next one has not begun."""
        return self.epoch > 0 and self.loader.state_dict()["samples"] == 0

    def offer(self, value: float, main: bool) -> None:
        """Offer the epoch just validated as a candidate for the average. Call it after `keep_best`.

        `value` is the monitored metric of the epoch. `main` is true on rank 0, which keeps the weights.
        """

        def weights() -> dict[str, torch.Tensor] | None:
            if not main:
                return None
            best = self.best if self.early_stopping.best_epoch == self.epoch else None
            return snapshot(self.evaluated_model.state_dict()) if best is None else best

        self.candidates.offer(self.epoch, value, weights)

    def keep_best(self, apart: bool = False) -> None:
        """Keep the evaluated model's weights as those of the best epoch.

        Without `apart`, a checkpoint saved before the next step doesn't store these weights a second time. `apart`
        makes it store them on their own, because the model's weights may change without a step.
        """
        self.best = snapshot(self.evaluated_model.state_dict())
        self._best_step = -1 if apart else self.step

    def state_dict(self, ranks: Ranks) -> dict[str, Any]:
        """Return the state as tensors and plain data. It is the same on all `ranks`, except for the model's buffers.

        A checkpoint has the buffers of rank 0. Every rank must call this. Raises StepDiverged if a loss or gradient was
        not finite, so that no run resumes from such a state.
        """
        self.require_finite()
        state = {name: getattr(self, name).state_dict() for name in self._STATEFUL}
        state |= {name: getattr(self, name) for name in (*self._PLAIN, *self._PHASE)}
        names = parameter_names(self.optimizer, self.model)
        state["optimizer"] = {"kind": self.optimizer_kind, "names": names, **self.optimizer.state_dict()}
        # At the end of the best epoch they equal the evaluated model's weights, so the file holds them once.
        state["best"] = None if self.step == self._best_step else self.best
        state["initial"] = self.initial
        state["average"] = self.candidates.state_dict()
        state["totals"] = self.totals.over(ranks).state_dict()
        rng, *rng_of_others = ranks.gather(rng_state(self._rng_device(ranks)))
        if bad := sum(ranks.gather(self.loader.bad_count)):
            state["loader"]["bad_samples"] = bad
        if self.pace is not None:
            state["pace"] = self.pace.state_dict()
        ema = self.ema.module.state_dict() if self.ema and self.phase != HEAD else None
        return {**state, "ema": ema, "rng": rng, "rng_of_others": rng_of_others}

    def load_state_dict(self, state: dict[str, Any], ranks: Ranks) -> None:
        """Restore a state that any number of ranks saved.

        On a rank for which no random generators were saved, they are seeded from the run's seed and the step. What the
        settings decide (rates, parameter groups, patience, …) stays as it is.
        """
        load_optimizer(self.optimizer, self.model, self.optimizer_kind, state["optimizer"])
        for name in self._STATEFUL:
            if name == "totals" and not ranks.main:
                continue
            if name == "scaler" and not state[name]:  # the run had no loss scale until now
                continue
            getattr(self, name).load_state_dict(state[name])
        for name in self._PLAIN:
            setattr(self, name, state[name])
        for name in self._PHASE:
            setattr(self, name, state.get(name, getattr(self, name)))  # older checkpoints have none
        if self.pace is not None and "pace" in state:
            self.pace.load_state_dict(state["pace"])
            if self.phase != HEAD:
                self.schedule.move_to(self.pace.progress)
        self.initial = state.get("initial") if ranks.main else None
        evaluated = state["ema"] or state["model"]
        if self.ema is not None:
            self.ema.module.load_state_dict(evaluated)
        if ranks.main and "best" in state and self.early_stopping.best_epoch >= 0:
            self.best, self._best_step = state["best"], -1
            if self.best is None:
                self.best, self._best_step = evaluated, self.step
        stopping = self.early_stopping
        best = None
        if "best" in state and stopping.best is not None:
            best = Candidate(stopping.best_epoch, stopping.best, self.best)
        self.candidates.load_state_dict(state.get("average", ()), best)
        states = [state["rng"], *state.get("rng_of_others", [])]
        if ranks.rank < len(states):
            load_rng_state(states[ranks.rank], self._rng_device(ranks))
        else:
            seed_rank(ranks.rank, self.step)

    def _rng_device(self, ranks: Ranks) -> torch.device | None:
        return self.totals.device if ranks.size > 1 else None
