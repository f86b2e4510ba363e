"""The pace of a run under `--minutes`: how far it is in its plan, and when it has to end.

Progress does not follow the clock: each step adds the time that the plan expects for a step on images of that size. So
the learning rate depends only on the steps made. At fixed steps the clock is compared with the plan, and the end of the
run is moved if the machine is slower or faster than planned. The checkpoint holds these decisions, so that a resumed
run follows them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from fasttrain.config.schema import TrainConfig
from fasttrain.training.time_plan import TimePlan, epoch_costs

_LOOKS, _LOOKS_AN_EPOCH = 50, 8  # at least this many checks of the clock over the planned steps, and per epoch
_LEAST_WINDOW, _WINDOW = 4, 8  # checks from which the speed is computed
_STORED = ("head", "training", "head_seconds", "validation", "finish")
_TOLERANCE = 0.0195  # a share of the planned seconds; smaller changes are ignored
_DIGITS = 3  # seconds are rounded to this; clocks with different starting points differ in the last bits
_GRID = 1000  # possible ends of a run, so that the last bits of a clock don't affect the weights


def clock() -> float:
    """Return the seconds of a monotonic clock. Tests replace it."""
    return time.monotonic()


class Pace:
    """The progress of a run from 0 to 1, and the seconds that are left.

    `decisions` lists each time that the end of training was moved, as a dict: "step", "progress" at that step, and the
    new "end", in planned seconds of training from its beginning.
    """

    def __init__(self, plan: TimePlan, began: float) -> None:
        """Follow `plan`. `began`: the value of `clock` when this process started or resumed the run."""
        self.plan, self._began, self._spent = plan, began, 0.0
        costs = epoch_costs(plan.line, plan.steps, plan.progressive, plan.image_size, plan.epochs)
        self._ends = [sum(costs[: number + 1]) for number in range(plan.epochs)]
        self._work, self._end = 0.0, min(plan.training, self._ends[-1])
        self._anchor = (0.0, 0.0)  # planned seconds done, and progress, at the last decision
        self._slower = 1.0  # real seconds per planned second
        self._marks: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self.decisions: list[dict[str, float]] = []

    @property
    def elapsed(self) -> float:
        """Return the seconds that this run has taken so far, including earlier processes."""
        return self._spent + clock() - self._began

    @property
    def progress(self) -> float:
        """Return the finished share of the run, in [0, 1]."""
        work, progress = self._anchor
        if self._end <= work:
            return 1.0
        return min(progress + (1 - progress) * (self._work - work) / (self._end - work), 1.0)

    @property
    def done(self) -> bool:
        """Return whether the run has to end: less than half a step is left."""
        return self._work >= self._end - self._least_step / 2

    @property
    def epochs_done(self) -> float:
        """Return the number of epochs trained so far, with the current one as a fraction."""
        return self._epochs(self._work)

    def share_of_epoch(self, epoch: int) -> float:
        """Return the share of `epoch`, counted from 0 after the head's epochs, that there is time for, in [0, 1]."""
        return min(max(self._epochs(self._end) - epoch, 0.0), 1.0)

    def after_step(self, side: int) -> float:
        """Count a step on images of `side` px. Return the finished share of the run, in [0, 1]."""
        base, per_pixel = self.plan.line
        self._work += base + per_pixel * side**2
        return self.progress

    def overdue(self, elapsed: float) -> bool:
        """Return whether only the time reserved for the end is left. `elapsed` is `Pace.elapsed` on rank 0."""
        return elapsed >= self.plan.budget - self.plan.finish

    def begin_epoch(self) -> None:
        """Forget the earlier checks of the clock, so that validation does not count as training time."""
        self._marks.clear()

    def leave_out_start(self, elapsed: float) -> None:
        """Leave the time that a resumed run took to start out of the measured training time.

        `elapsed` is `Pace.elapsed` on rank 0.
        """
        start = round(elapsed - self._spent, _DIGITS)
        self._marks = deque(((seconds + start, work) for seconds, work in self._marks), maxlen=_WINDOW)

    def due(self, step: int) -> bool:
        """Return whether the clock is to be checked after `step`."""
        base, per_pixel = self.plan.line
        side = self.plan.progressive.last if self.plan.progressive else self.plan.image_size
        planned = self.plan.training / (base + per_pixel * side**2)
        return step % max(round(min(planned / _LOOKS, self.plan.steps / _LOOKS_AN_EPOCH)), 1) == 0

    def look(self, step: int, elapsed: float) -> None:
        """Check the clock after `step`, and move the end of the run if the machine is slower or faster than planned.

        `elapsed` is `Pace.elapsed` on rank 0.
        """
        elapsed = round(elapsed, _DIGITS)
        self._marks.append((elapsed, self._work))
        (began, before), done = self._marks[0], self._work
        if len(self._marks) >= _LEAST_WINDOW and done > before:
            self._slower = max(round((elapsed - began) / (done - before), 3), 1e-3)
        validations = sum(1 for begin in [0.0, *self._ends[:-1]] if begin < self._end and self._epoch_end(begin) > done)
        left = self.plan.budget - elapsed - self.plan.finish - validations * self.plan.validation
        end = min(done + max(left, 0.0) / self._slower, self._ends[-1])
        end = round(_GRID * end / self._ends[-1]) / _GRID * self._ends[-1] if left > 0 else done
        least = done if done > 0 or self.plan.head == "first" else self._least_step  # a run has at least one epoch
        if abs(end - self._end) > _TOLERANCE * self._ends[-1] or left <= 0:
            progress = self.progress
            self._anchor, self._end = (done, progress), max(end, least)
            self.decisions.append({"step": step, "progress": progress, "end": self._end})

    def summary(self) -> str:
        """Return a line with the minutes used and the epochs done, and the planned epochs if these are others."""
        used = f"minutes: {self.elapsed / 60:.3g} of {self.plan.budget / 60:g} used"
        if self.plan.head == "alone":
            return used
        done, planned = self.epochs_done, self.plan.epochs_that_fit
        moved = f" ({planned:.3g} were planned)" if abs(done - planned) > _TOLERANCE * planned else ""
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
        """Continue from `state`, which `state_dict` returned."""
        self._spent = state["spent"]
        self._work, self._end = state["work"], min(state["end"], self._ends[-1])
        self._anchor = (state["anchor"][0], state["anchor"][1])
        self._slower = state["slower"]
        self._marks = deque(((mark[0], mark[1]) for mark in state["marks"]), maxlen=_WINDOW)
        self.decisions = list(state["decisions"])

    @property
    def _least_step(self) -> float:
        return self._ends[0] / self.plan.steps

    def _epochs(self, work: float) -> float:
        """Return how many epochs `work` planned seconds of training are."""
        begin = 0.0
        for number, end in enumerate(self._ends):
            if work < end:
                return number + (work - begin) / (end - begin)
            begin = end
        return float(len(self._ends))

    def _epoch_end(self, begin: float) -> float:
        return next(end for end in self._ends if end > begin)


def plan_state(plan: TimePlan) -> dict[str, Any]:
    """Return the fields of `plan` that a checkpoint must store, because the run's settings don't hold them."""
    return {**{name: getattr(plan, name) for name in _STORED}, "line": list(plan.line), "steps": plan.steps}


def resumed_plan(state: dict[str, Any], config: TrainConfig, steps: int) -> TimePlan:
    """Return the plan in a checkpoint's `state`, for a run with the settings `config` and `steps` steps per epoch.

    The planned seconds of an epoch stay the same, even if the number of its steps has changed because of another batch
    size or number of ranks.
    """
    stored = state["plan"]
    share = stored["steps"] / steps  # 1.0 changes no bit of the line
    base, per_pixel = (share * each for each in stored["line"])
    return TimePlan(
        **{name: stored[name] for name in _STORED},
        budget=60 * (config.minutes or 0.0),
        image_size=config.image_size,
        progressive=config.progressive,
        epochs=config.epochs - config.head_epochs,
        line=(base, per_pixel),
        steps=steps,
    )
