"""`Timed`: keep a run within its `--minutes`."""

from __future__ import annotations

from fasttrain.training.parts import RunParts
from fasttrain.training.state import HEAD


class Timed:
    """Measures the speed of a run under `--minutes`, and decides when the run has to end.

    Without `--minutes` it does nothing. Epochs that fit only the classifier, on cached features, aren't planned. They
    end when the time is up.
    """

    def __init__(self, parts: RunParts) -> None:
        self._parts, self._state, self._pace = parts, parts.state, parts.state.pace

    def begin(self) -> None:
        """Begin to measure the speed. The time that passed before, while the run started or resumed, doesn't count."""
        if self._pace is not None:
            self._pace.leave_out_start(self._elapsed())

    @property
    def done(self) -> bool:
        """Return whether the training time of the plan is used up. False without `--minutes`."""
        return self._pace is not None and not self._solving and self._pace.done

    def before_epoch(self) -> bool:
        """Update the plan, and return whether the run has to end before the next epoch.

        The plan isn't updated if the epoch was interrupted and is resumed.
        """
        if self._pace is None:
            return False
        if self._solving and not self._parts.head_is_trained:
            return bool(self._state.history) and self._pace.overdue(self._elapsed())
        if self._state.loader.state_dict()["samples"] == 0:
            self._pace.begin_epoch()
            self._update()
        return self._pace.done and self._state.at_end_of_epoch

    def share_of_epoch(self) -> float:
        """Return the share of the current epoch that there is time for, in [0, 1]. It is 1 without `--minutes`."""
        if self._pace is None or self._solving:
            return 1.0
        return self._pace.share_of_epoch(self._state.epoch - self._state.phase_epoch)

    def after_step(self) -> None:
        """Measure the speed and update the plan, if the next measurement is due. Call this after each step."""
        state, pace = self._state, self._pace
        if pace is not None and not self._solving and pace.due(state.step - state.phase_step):
            self._update()

    def summary(self) -> str:
        """Return a line about the time that was used, or "" without `--minutes`."""
        return "" if self._pace is None else self._pace.summary()

    @property
    def _solving(self) -> bool:
        return self._state.phase == HEAD or self._parts.config.linear_probe

    def _update(self) -> None:
        assert self._pace is not None
        self._pace.look(self._state.step, self._elapsed())

    def _elapsed(self) -> float:
        pace = self._pace
        assert pace is not None
        return self._parts.ranks.from_main(lambda: pace.elapsed)
