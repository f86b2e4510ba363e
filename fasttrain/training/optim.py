"""Optimizers and learning-rate schedules from timm and torch, behind one small interface."""

from __future__ import annotations

import inspect
from typing import Any

import timm.optim.kron
import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from fasttrain.errors import UserError
from fasttrain.text import nearest
from fasttrain.training.optimizer_check import require_usable

timm.optim.kron.has_dynamo = False  # it would compile four graphs per parameter shape: minutes before the first step


def require_known_optimizer(name: str) -> None:
    """Raise UserError if timm has no optimizer `name`. The message suggests the most similar name that timm has."""
    kind = name.lower().removeprefix("lookahead_")
    if kind not in list_optimizers():
        raise UserError(f"optimizer = '{name}' is not known to timm{nearest(kind, list_optimizers())}")


def create_optimizer(
    model: torch.nn.Module,
    name: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Return timm's optimizer `name` over the trainable parameters, without weight decay on norms and biases.

    Adam, AdamW and SGD run as torch's fused kernels. With `layer_decay`, in (0, 1], the learning rate of each of timm's
    layer groups is this share of the rate of the group above (as in BEiT, Bao et al. 2021). `Schedule` applies these
    shares.

    `name` may begin with `lookahead_` (Zhang et al. 2019). Raises UserError if timm has no such optimizer, or if the
    optimizer fails in a trial step (see `require_usable`).
    """
    kind = name.lower().removeprefix("lookahead_")
    require_known_optimizer(name)

    def make(model: torch.nn.Module, layer_decay: float | None = None) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=name,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            filter_bias_and_bn=True,
            layer_decay=layer_decay,
            **_arguments(kind, momentum),
        )
        return made

    require_usable(name, kind, make, next(model.parameters()).device)
    return make(model, layer_decay)


def _arguments(kind: str, momentum: float) -> dict[str, bool]:
    """Return the arguments of timm's optimizer `kind` that are not settings."""
    made = get_optimizer_class(kind, bind_defaults=False)
    takes = inspect.signature(made).parameters
    given = {}
    if made in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):  # on the CPU, CUDA and MPS
        given["fused"] = True
    if not momentum and "nesterov" in takes:
        given["nesterov"] = False
    if "deterministic" in takes:  # Kron's: otherwise ranks draw different numbers and drift apart
        given["deterministic"] = True
    return given


class Schedule:
    """The learning rate over a run.

    Call `after_step` after each optimizer step and `after_epoch` after each validation.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        kind: str,
        *,
        learning_rate: float,
        epochs: int,
        steps_per_epoch: int,
        patience: int,
        factor: float,
        warmup_epochs: float,
        greater_is_better: bool = False,
    ) -> None:
        """Set up the schedule `kind` for the optimizer.

        `kind` is "plateau" (torch's ReduceLROnPlateau on the monitored metric), "cosine" (timm's), "onecycle" (torch's;
        Smith and Topin 2018) or "constant". `learning_rate`: the highest rate of the schedule. `epochs`: the number of
        epochs that the schedule covers. Only for plateau: after `patience` epochs without improvement the rate is
        multiplied by `factor`, and `greater_is_better` says which direction of the metric is an improvement. Only for
        cosine: the rate rises for `warmup_epochs` epochs first.
        """
        self._total = epochs * steps_per_epoch
        self._optimizer, self._kind, self._base = optimizer, kind, learning_rate
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._position: float = 0
        self._plateau = self._cosine = self._onecycle = None
        if kind != "cosine":  # timm's schedule applies layer decay itself; torch's don't know it
            for group in optimizer.param_groups:
                group["lr"] *= group.get("lr_scale", 1.0)
        if kind == "plateau":
            self._plateau = ReduceLROnPlateau(
                optimizer, "max" if greater_is_better else "min", patience=patience, factor=factor
            )
        elif kind == "cosine":
            self._cosine = CosineLRScheduler(
                optimizer,
                t_initial=max(self._total, 2),  # timm warns about a cosine of one step
                warmup_t=round(warmup_epochs * steps_per_epoch),
                warmup_lr_init=learning_rate / 100,
                lr_min=learning_rate / 1000,
                t_in_epochs=False,
            )
        elif kind == "onecycle":
            rates = [learning_rate * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
            has_momentum = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
            self._onecycle = OneCycleLR(
                optimizer, max_lr=rates, total_steps=self._total + 1, cycle_momentum=has_momentum
            )

    @property
    def learning_rate(self) -> float:
        """The optimizer's current learning rate. If layers have their own rates, it is the head's."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of a constant schedule. Layers keep their own shares of it."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

    def after_step(self) -> None:
        """Count an optimizer step, and set the learning rate of the next one."""
        self._position += 1
        if self._cosine is not None:
            self._cosine.step_update(self._position)
        elif self._onecycle is not None and self._position <= self._total:
            self._onecycle.step()

    def move_to(self, progress: float) -> None:
        """Set the learning rate to that of the point `progress` of the schedule: 0 is the beginning, 1 the end.

        The steps counted so far are replaced by that point.
        """
        self._position = progress * self._total
        self._place()

    def skip_epoch(self) -> None:
        """Count an epoch in which no optimizer made steps, because a solver fitted the head."""
        self._position = min(self._position + self._steps_per_epoch, self._total)

    def after_epoch(self, monitored: float) -> None:
        """Lower the rate of a plateau schedule if `monitored`, the epoch's metric, has stopped improving."""
        if self._plateau is not None:
            self._plateau.step(monitored)

    def state_dict(self) -> dict[str, Any]:
        active = self._plateau or self._cosine or self._onecycle
        # OneCycleLR's state has a bound method, which weights_only loading refuses. The plain values are enough.
        plain = (int, float, str, bool, list, type(None))
        values = active.state_dict().items() if active else ()
        return {
            "kind": self._kind,
            "learning_rate": self._base,
            "epochs": self._epochs,
            "steps_per_epoch": self._steps_per_epoch,
            "position": self._position,
            "active": {key: value for key, value in values if isinstance(value, plain)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the saved `state`, with this schedule's own settings. Call it after loading the optimizer.

        The position in the run, counted in epochs, is taken from `state`. cosine and onecycle set the rate that their
        own settings give at that position. plateau also takes its count of epochs without improvement if the saved
        schedule was plateau, and the reduced rate if the setting `learning_rate` is the same as then.
        """
        position = round(state["position"] * self._steps_per_epoch / state["steps_per_epoch"])
        self._position = min(position, self._total)
        if self._plateau is not None and state["kind"] == self._kind:
            self._load_plateau(self._plateau, state)
        elif self._position:
            self._place()

    def _place(self) -> None:
        if self._cosine is not None:
            self._cosine.step_update(self._position)
        elif self._onecycle is not None:
            # The step count only triggers a warning, which a schedule that starts here would give.
            self._onecycle.load_state_dict({"last_epoch": self._position - 1, "_step_count": self._position + 1})
            self._onecycle.step()
            self._onecycle.load_state_dict({"_step_count": self._position + 1})

    def _load_plateau(self, plateau: ReduceLROnPlateau, state: dict[str, Any]) -> None:
        kept = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        plateau.load_state_dict({name: state["active"][name] for name in kept if name in state["active"]})
        rates = state["active"].get("_last_lr")
        if not rates or state["learning_rate"] != self._base:
            return
        groups = self._optimizer.param_groups
        if len(rates) != len(groups):  # the parameter groups have changed; all rates were reduced by the same factor
            rates = [group["lr"] * max(rates) / self._base for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        plateau.load_state_dict({"_last_lr": list(rates)})
