"""`Timed`: what a run does under `--minutes` besides training."""

from __future__ import annotations

from fasttrain.training.parts import RunParts
from fasttrain.training.state import HEAD


class Timed:
    """Looks at the clock, and says when the run is over. Without a pace it does nothing.

    Epochs that solve for the classifier are no part of the pace. They end early where the time is over.
    """

    def __init__(self, parts: RunParts) -> None:
        self._parts, self._state, self._pace = parts, parts.state, parts.state.pace

    def begin(self) -> None:
        """Leave the time since the checkpoint out of the looks at the speed."""
        if self._pace is not None:
            self._pace.leave_out_start(self._elapsed())

    @property
    def done(self) -> bool:
        """Return whether the run has had its last step."""
        return self._pace is not None and not self._solving and self._pace.done

    def before_epoch(self) -> bool:
        """Look at the clock unless the epoch was begun before. Return whether the epochs so far have to do."""
        if self._pace is None:
            return False
        if self._solving and not self._parts.head_is_trained:
            return bool(self._state.history) and self._pace.overdue(self._elapsed())
        if self._state.loader.state_dict()["samples"] == 0:
            self._pace.begin_epoch()
            self._look()
        return self._pace.done and self._state.at_end_of_epoch

    def after_step(self) -> None:
        """Look at the clock after some of the steps."""
        state, pace = self._state, self._pace
        if pace is not None and not self._solving and pace.due(state.step - state.phase_step):
            self._look()

    def summary(self) -> str:
        """Return a line about the time that was used; empty without a pace."""
        return "" if self._pace is None else self._pace.summary()

    @property
    def _solving(self) -> bool:
        return self._state.phase == HEAD or self._parts.config.linear_probe

    def _look(self) -> None:
        assert self._pace is not None
        self._pace.look(self._state.step, self._elapsed())

    def _elapsed(self) -> float:
        pace = self._pace
        assert pace is not None
        return self._parts.ranks.from_main(lambda: pace.elapsed)
