"""`Timed`: what a run does under `--minutes` besides training."""

from __future__ import annotations

from fasttrain.training.head_first import solve_head_first
from fasttrain.training.linear_probe import Watched
from fasttrain.training.parts import RunParts


class Timed:
    """Solves for the head first, looks at the clock, and says when the run is over. Without a pace it does nothing."""

    def __init__(self, parts: RunParts) -> None:
        self._parts, self._state, self._pace = parts, parts.state, parts.state.pace

    def begin(self, watched: Watched) -> None:
        """Solve for the head, once in a run, where the plan says so. `watched` wraps the batches of one process."""
        pace, ranks = self._pace, self._parts.ranks
        if pace is None:
            return
        pace.leave_out_start(ranks.from_main(lambda: pace.elapsed))
        if pace.plan.head != "first" or pace.head_solved:
            return
        side = pace.plan.progressive.last if pace.plan.progressive else pace.plan.image_size
        # Of several ranks the first alone computes features, and the others can't agree with it on a stop.
        solve_head_first(self._parts, side, watched if ranks.size == 1 else lambda seen: seen)
        pace.head_solved = True

    @property
    def done(self) -> bool:
        """Return whether the run has had its last step."""
        return self._pace is not None and self._pace.done

    def before_epoch(self) -> bool:
        """Look at the clock unless the epoch was begun before. Return whether the epochs so far have to do."""
        if self._pace is None:
            return False
        if self._state.loader.state_dict()["samples"] == 0:
            self._pace.begin_epoch()
            self._look()
        return self._pace.done and self._state.at_end_of_epoch

    def after_step(self) -> None:
        """Look at the clock after some of the steps."""
        if self._pace is not None and self._pace.due(self._state.step):
            self._look()

    def summary(self) -> str:
        """Return a line about the time that was used; empty without a pace."""
        return "" if self._pace is None else self._pace.summary()

    def _look(self) -> None:
        pace = self._pace
        assert pace is not None
        pace.look(self._state.step, self._parts.ranks.from_main(lambda: pace.elapsed))
