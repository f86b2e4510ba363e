"""Progress for people: a live bar in a terminal or notebook, nothing that scrolls in a log."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochProgress:
    """A bar over one epoch's images with loss, img/s, share of time waiting for data, and ETA."""

    def __init__(self, console: Console, title: str, total: int, done: int = 0) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (console.is_terminal or console.is_jupyter),
        )
        self._done = done
        self._task = self._progress.add_task(title, total=total, completed=done, said="")

    def show(self, images: int, loss: float, rate: float, wait: float) -> None:
        """`images` since this session's start of the epoch, `rate` in img/s, `wait` in [0, 1]."""
        said = f"loss {loss:.3f}  {rate:,.0f} img/s  waiting {wait:.0%}"
        self._progress.update(self._task, completed=self._done + images, said=said)

    def __enter__(self) -> EpochProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
