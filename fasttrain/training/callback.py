"""`Callback`, the base class of user code that a run calls, and `RunView`, through which a callback sees the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.checkpoint.folder import checkpoint_path
from fasttrain.checkpoint.packing import pack
from fasttrain.errors import InternalError, UserError
from fasttrain.training.result import RECORDED, TrainResult
from fasttrain.training.seeds import load_rng_state, rng_state

if TYPE_CHECKING:
    import torch

    from fasttrain.config.schema import TrainConfig
    from fasttrain.training.parts import RunParts

_NAME = re.compile(r"[\w./ -]+")  # the names that MLflow accepts


class Callback:
    """Base of a callback: override what you need.

    With several ranks each method is called on every rank, in the same order. A callback that changes weights must do
    the same on all of them.
    """

    def on_train_start(self, run: RunView) -> None:
        """Called before the first step. In a resumed run `run.step` is then greater than 0."""

    def on_step_end(self, run: RunView) -> None:
        """Called after each optimizer step."""

    def on_epoch_end(self, run: RunView) -> None:
        """Called after each epoch's validation, before the epoch's checkpoint is saved.

        `run.metrics` holds the epoch's record.
        """

    def on_checkpoint(self, run: RunView, path: Path) -> None:
        """Called after each checkpoint, once rank 0 has written it to the disk.

        A run waits for the disk only if this method is overridden. The checkpoint holds the callbacks' state from
        before this call.
        """

    def on_train_end(self, run: RunView, result: TrainResult) -> None:
        """Called when the run has finished and everything is written.

        Not called if the run was interrupted or failed.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in the checkpoint: dicts, lists, tuples, numbers, strings and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Called before `on_train_start` of a resumed run."""


class RunView:
    """The part of a run that its callbacks can read, and the requests they can make."""

    def __init__(self, parts: RunParts, folder: Path) -> None:
        self._parts, self._state = parts, parts.state
        self.folder = folder
        """The run's folder."""
        self.config: TrainConfig = parts.config
        """The settings. `config.epochs` is the greatest number of epochs that the run can have."""
        self.classes: tuple[str, ...] = tuple(parts.shards.classes)
        """The names of the classes, in the order of the logits."""
        self.device: torch.device = parts.device
        """The device that the model is on."""
        self.rank: int = parts.ranks.rank
        """0 in a single process. Rank 0 writes the files; only its metrics and states are recorded."""
        self.stopped_by: str | None = None
        """Which callback asked the run to stop, and why. None if none has."""
        self._record: Mapping[str, Any] | None = None
        self._logged: dict[str, float] = {}
        self._caller = ""  # the name of the callback that runs now

    @property
    def epoch(self) -> int:
        """The number of the current epoch, from 1, as in `history.json`."""
        return self._state.epoch + (not self._state.at_end_of_epoch)

    @property
    def step(self) -> int:
        """Return how many optimizer steps the run has made."""
        return self._state.step

    @property
    def model(self) -> torch.nn.Module:
        """The model that trains."""
        return self._state.model

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The model that is validated and saved: the EMA model with `ema_decay`, otherwise `model`."""
        return self._state.evaluated_model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self._state.optimizer

    @property
    def learning_rate(self) -> float:
        """The current learning rate. If layers have their own rates, it is the head's."""
        return self._state.schedule.learning_rate

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record for each epoch so far, as in `history.json`."""
        return list(self._state.history)

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the epoch, including what was logged with `log`.

        After a step they are this rank's `train_loss` and `train_top1` so far (`train_subset_accuracy` for multi-label
        data); reading them waits for the device. Once the epoch is over they are all values of the epoch's record in
        `history.json`.
        """
        if self._record is not None:
            return {**self._record, **self._logged}
        if self._state.at_end_of_epoch:
            return dict(self._state.history[-1])
        totals = self._state.totals
        loss, accuracy = totals.means()
        return {"train_loss": loss, f"train_{totals.accuracy}": accuracy, **self._logged}

    def log(self, metrics: Mapping[str, float]) -> None:
        """Add `metrics` to the current epoch's record, in `history.json` and in MLflow.

        The last value in an epoch counts. Raises UserError for a name that is invalid, or that the run uses itself.
        """
        for name, value in metrics.items():
            if name in RECORDED:
                raise UserError(f"{self._caller}: '{name}' is already a metric of the run; log it under another name")
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"{self._caller}: '{name}' is not a metric name; use letters, digits, spaces and . / _ -"
                )
            try:
                self._logged[name] = float(value)
            except (TypeError, ValueError, RuntimeError):
                problem = f"'{name}' is a {type(value).__name__}, not a number; log one number per name"
                raise UserError(f"{self._caller}: {problem}") from None

    def stop(self, reason: str = "") -> None:
        """End the run after this step or epoch.

        The run is then validated and evaluated, and its report is written, as usual.
        """
        self.stopped_by = self.stopped_by or f"{self._caller}{': ' if reason else ''}{reason}"


class Callbacks:
    """The callbacks of one run, called in the order in which the user gave them."""

    def __init__(self, given: Sequence[Callback] | None, parts: RunParts, folder: Path) -> None:
        self.view = RunView(parts, folder)
        self._callbacks, self._parts = list(given or ()), parts
        self._started = False
        self._watch_checkpoints = any(
            type(each).on_checkpoint is not Callback.on_checkpoint for each in self._callbacks
        )

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    @property
    def stopping(self) -> bool:
        """Return whether a callback of this rank has asked the run to stop."""
        return self.view.stopped_by is not None

    def train_start(self) -> None:
        """Call `on_train_start` of each callback."""
        with self._generators_restored():
            self._call("on_train_start")
        self._started = True

    def step_end(self) -> None:
        """Call `on_step_end` of each callback."""
        self._call("on_step_end")

    def epoch_end(self, record: dict[str, Any]) -> None:
        """Call `on_epoch_end`, add the logged values to `record`, and agree with the other ranks on whether to stop."""
        view = self.view
        view._record = record
        self._call("on_epoch_end")
        view._record = None
        record |= view._logged
        view._logged = {}
        stopped = self._parts.ranks.gather(view.stopped_by)
        view.stopped_by = next((each for each in stopped if each), None)

    def checkpoint(self, wait: Callable[[], Any]) -> None:
        """Call `on_checkpoint` after `wait` has returned. Does nothing before the run's first step."""
        if self._watch_checkpoints and self._started:
            wait()
            with self._generators_restored():
                self._call("on_checkpoint", checkpoint_path(self.view.folder, self.view.step))

    def train_end(self, result: TrainResult) -> None:
        """Call `on_train_end` of each callback."""
        self._call("on_train_end", result)

    def state_dict(self) -> dict[str, Any]:
        """Return the callbacks' names and states, the logged values and a requested stop.

        Raises UserError if a callback's state can't be stored in a checkpoint.
        """
        states = [each.state_dict() for each in self._callbacks]
        for each, state in zip(self._callbacks, states, strict=True):
            try:
                pack({"state": state})
            except InternalError as error:
                raise UserError(
                    f"{_name(each)}.state_dict: {error}; return dicts, lists, tuples, numbers, text and tensors"
                ) from None
        names = [_name(each) for each in self._callbacks]
        return {"names": names, "states": states, "logged": self.view._logged, "stopped_by": self.view.stopped_by}

    def load_state_dict(self, state: Mapping[str, Any], *, more_epochs: bool) -> None:
        """Restore each callback from the saved state of the same class name.

        With `more_epochs`, a stop that a callback requested before the checkpoint is forgotten.
        """
        left = list(zip(state["names"], state["states"], strict=True))
        for each in self._callbacks:
            found = next((at for at, (name, _) in enumerate(left) if name == _name(each)), None)
            if found is not None:
                each.load_state_dict(left.pop(found)[1])
        self.view._logged = dict(state["logged"])
        self.view.stopped_by = None if more_epochs else state["stopped_by"]

    def _call(self, method: str, *arguments: Any) -> None:
        for each in self._callbacks:
            self.view._caller = _name(each)
            getattr(each, method)(self.view, *arguments)

    @contextmanager
    def _generators_restored(self) -> Iterator[None]:
        """Undo callbacks' draws from the run's random generators: a resumed run calls them at other points."""
        device = self._parts.device if self._parts.device.type == "cuda" else None
        state = rng_state(device) if self._callbacks else None
        yield
        if state is not None:
            load_rng_state(state, device)


def require_callbacks(given: Sequence[Callback] | None, checkpoint: Mapping[str, Any] | None) -> str | None:
    """Check the callbacks `given` for a run that begins, or resumes from `checkpoint`.

    Raises UserError if `given` contains anything but callbacks, or is None although the run in `checkpoint` had
    callbacks. Returns a line such as "callbacks: A, B -> A" if a resumed run gets other callbacks than before,
    otherwise None.
    """
    for each in given or ():
        if not isinstance(each, Callback):
            what = f"the class {each.__name__}" if isinstance(each, type) else f"a {type(each).__name__}"
            raise UserError(f"callbacks contains {what}; give objects of subclasses of fasttrain.Callback")
    before = list(((checkpoint or {}).get("callbacks") or {}).get("names", ()))
    if given is None and before:
        raise UserError(
            f"the run began with callbacks ({', '.join(before)}), and none are given now; resume with "
            "train(resume=…, callbacks=[…]), or with callbacks=[] to go on without callbacks"
        )
    now = [_name(each) for each in given or ()]
    if checkpoint is None or before == now:
        return None
    return f"callbacks: {', '.join(before) or 'none'} -> {', '.join(now) or 'none'}"


def _name(callback: Callback) -> str:
    return type(callback).__qualname__.rpartition(".")[2]
