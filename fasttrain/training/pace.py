"""The pace of a run under `--minutes`: how far it is in its plan, and where it has to end.

Progress counts planned seconds: each step adds what the plan says that a step of its size takes. So the learning rate
is a function of the steps done, and not of a clock. At fixed steps the clock is looked at, and the end is moved where
the machine is slower or faster than planned. The checkpoint holds these decisions, so a resumed run follows them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from fasttrain.config.schema import TrainConfig
from fasttrain.training.time_plan import TimePlan, epoch_costs

_LOOKS, _LOOKS_AN_EPOCH = 50, 8  # at least, over the planned steps
_LEAST_WINDOW, _WINDOW = 4, 8  # looks from which the speed is taken
_STORED = ("head", "training", "head_seconds", "validation", "finish")
_TOLERANCE = 0.0195  # of the planned seconds: smaller changes are not worth a decision
_DIGITS = 3  # of seconds: a clock that began elsewhere has other last bits
_GRID = 1000  # places where a run may end, so that the last bits of a clock don't reach the weights


def clock() -> float:
    """Return seconds of a clock that never runs backwards. Tests put another one here."""
    return time.monotonic()


class Pace:
    """The progress of a run from 0 to 1, and the seconds it has left. `state_dict` holds both.

    decisions: where the end was moved, as the step, the progress there, and the new end in planned seconds.
    """

    def __init__(self, plan: TimePlan, began: float) -> None:
        """`began` is the time of `clock` when this process began the run, or resumed it."""
        self.plan, self._began, self._spent = plan, began, 0.0
        costs = epoch_costs(plan.line, plan.steps, plan.progressive, plan.image_size, plan.epochs)
        self._ends = [sum(costs[: number + 1]) for number in range(plan.epochs)]
        self._work, self._end = 0.0, min(plan.training, self._ends[-1])
        self._anchor = (0.0, 0.0)  # work and progress at the last decision
        self._slower = 1.0  # real seconds for one that was planned
        self._marks: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self.decisions: list[dict[str, float]] = []

    @property
    def elapsed(self) -> float:
        """Return the seconds of this run so far, those of earlier processes included."""
        return self._spent + clock() - self._began

    @property
    def progress(self) -> float:
        """Return the share of the run that is done, in [0, 1]."""
        work, progress = self._anchor
        if self._end <= work:
            return 1.0
        return min(progress + (1 - progress) * (self._work - work) / (self._end - work), 1.0)

    @property
    def done(self) -> bool:
        """Return whether the run has to end, as less than half of a step is left."""
        return self._work >= self._end - self._least_step / 2

    @property
    def epochs_done(self) -> float:
        """Return the epochs that the steps so far make up."""
        begin = 0.0
        for number, end in enumerate(self._ends):
            if self._work < end:
                return number + (self._work - begin) / (end - begin)
            begin = end
        return float(len(self._ends))

    def after_step(self, side: int) -> float:
        """Count a step on pictures of `side` px. Return the progress."""
        base, per_pixel = self.plan.line
        self._work += base + per_pixel * side**2
        return self.progress

    def overdue(self, elapsed: float) -> bool:
        """Return whether only the time that is kept for the end is left. `elapsed` is rank 0's."""
        return elapsed >= self.plan.budget - self.plan.finish

    def begin_epoch(self) -> None:
        """Forget the looks before: validation is no part of a step's time."""
        self._marks.clear()

    def leave_out_start(self, elapsed: float) -> None:
        """Have the time since the checkpoint be no part of a step's. `elapsed` is rank 0's."""
        start = round(elapsed - self._spent, _DIGITS)
        self._marks = deque(((seconds + start, work) for seconds, work in self._marks), maxlen=_WINDOW)

    def due(self, step: int) -> bool:
        """Return whether the clock is looked at after `step`."""
        base, per_pixel = self.plan.line
        side = self.plan.progressive.last if self.plan.progressive else self.plan.image_size
        planned = self.plan.training / (base + per_pixel * side**2)
        return step % max(round(min(planned / _LOOKS, self.plan.steps / _LOOKS_AN_EPOCH)), 1) == 0

    def look(self, step: int, elapsed: float) -> None:
        """Move the end to where the time that is left leads. `elapsed` is rank 0's."""
        elapsed = round(elapsed, _DIGITS)
        self._marks.append((elapsed, self._work))
        (began, before), done = self._marks[0], self._work
        if len(self._marks) >= _LEAST_WINDOW and done > before:
            self._slower = max(round((elapsed - began) / (done - before), 3), 1e-3)
        validations = sum(1 for begin in [0.0, *self._ends[:-1]] if begin < self._end and self._epoch_end(begin) > done)
        left = self.plan.budget - elapsed - self.plan.finish - validations * self.plan.validation
        end = min(done + max(left, 0.0) / self._slower, self._ends[-1])
        end = round(_GRID * end / self._ends[-1]) / _GRID * self._ends[-1] if left > 0 else done
        least = done if done > 0 or self.plan.head == "first" else self._least_step  # a run has an epoch at least
        if abs(end - self._end) > _TOLERANCE * self._ends[-1] or left <= 0:
            progress = self.progress
            self._anchor, self._end = (done, progress), max(end, least)
            self.decisions.append({"step": step, "progress": progress, "end": self._end})

    def summary(self) -> str:
        """Return a line about the time that was used, and the decisions that changed the plan."""
        used = f"minutes: {self.elapsed / 60:.3g} of {self.plan.budget / 60:g} so far"
        if self.plan.head == "alone":
            return used
        done, planned = self.epochs_done, self.plan.epochs_that_fit
        moved = f", planned were {planned:.3g}" if abs(done - planned) > _TOLERANCE * planned else ""
        return f"{used}, {done:.3g} epochs{moved}"

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": plan_state(self.plan),
            "spent": self.elapsed,
            "work": self._work,
            "end": self._end,
            "anchor": list(self._anchor),
            "slower": self._slower,
            "marks": [list(mark) for mark in self._marks],
            "decisions": self.decisions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self._spent = state["spent"]
        self._work, self._end = state["work"], min(state["end"], self._ends[-1])
        self._anchor = (state["anchor"][0], state["anchor"][1])
        self._slower = state["slower"]
        self._marks = deque(((mark[0], mark[1]) for mark in state["marks"]), maxlen=_WINDOW)
        self.decisions = list(state["decisions"])

    @property
    def _least_step(self) -> float:
        return self._ends[0] / self.plan.steps

    def _epoch_end(self, begin: float) -> float:
        return next(end for end in self._ends if end > begin)


def plan_state(plan: TimePlan) -> dict[str, Any]:
    """Return the parts of `plan` that the settings of the run don't hold, for its checkpoint."""
    return {**{name: getattr(plan, name) for name in _STORED}, "line": list(plan.line), "steps": plan.steps}


def resumed_plan(state: dict[str, Any], config: TrainConfig, steps: int) -> TimePlan:
    """Return the plan of a checkpoint's `state` for a run with the settings `config` and `steps` steps an epoch.

    An epoch takes as long as planned, also where its steps are others by now: with other batches, or more ranks.
    """
    stored = state["plan"]
    base, per_pixel = (each * stored["steps"] / steps for each in stored["line"])
    return TimePlan(
        **{name: stored[name] for name in _STORED},
        budget=60 * (config.minutes or 0.0),
        image_size=config.image_size,
        progressive=config.progressive,
        epochs=config.epochs - config.head_epochs,
        line=(base, per_pixel),
        steps=steps,
    )
