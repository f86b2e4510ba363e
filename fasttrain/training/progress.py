"""Progress display: a live bar in a terminal or notebook, nothing in a log file."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import TextColumn

from fasttrain.terminal import bar


class EpochProgress:
    """A bar over the images of an epoch, with loss, learning rate, img/s, share of time waiting for data, and ETA."""

    def __init__(
        self,
        console: Console,
        title: str,
        total: Callable[[], int],
        done: int,
        learning_rate: Callable[[], float],
    ) -> None:
        """Create the bar.

        `total` returns the number of images in the epoch, which falls if time runs out. `done`: the images so far.
        `learning_rate` returns the current one.
        """
        self._progress = bar(console, TextColumn("{task.fields[figures]}"))
        self._total, self._done, self._learning_rate = total, done, learning_rate
        self._task = self._progress.add_task(title, total=total(), completed=done, figures="")

    def show(self, images: int, loss: float, rate: float, wait: float) -> None:
        """Update the bar.

        `images`: photographs since this process began or resumed the epoch. `loss`: the mean training loss of the epoch
        when it was last read. `rate`: in img/s. `wait`: the share of time spent waiting for data, in [0, 1].
        """
        figures = f"loss {loss:.3f}  lr {self._learning_rate():.1e}  {rate:,.0f} img/s  waiting {wait:.0%}"
        self._progress.update(self._task, total=self._total(), completed=self._done + images, figures=figures)

    def __enter__(self) -> EpochProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
