"""Runs a generator in a thread of its own, so that its work costs the thread of the training loop nothing."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_LOOK_S = 0.2  # between two looks at whether the program is over, while nobody takes what is ready


class _Ready(NamedTuple, Generic[T]):
    """A message of the thread: an item, or none at the end, then with the error that the generator failed with."""

    items: list[T]
    error: BaseException | None = None


def in_thread(items: Generator[T, None, None], name: str) -> Generator[T, None, None]:
    """Yield what `items` yields, which runs in a thread called `name` from the first item on.

    One item is ready, and the one after it is made, while the consumer works. What `items` raises is raised here.
    Closing this generator closes `items`, in its thread, and waits for that.
    """
    ready: queue.Queue[_Ready[T]] = queue.Queue(1)
    stop = threading.Event()

    def run() -> None:
        error = None
        try:
            with contextlib.closing(items):
                for item in items:
                    made = [item]
                    del item  # the consumer alone keeps it alive
                    if not _hand_over(ready, _Ready(made), stop):
                        return
                    del made
        except BaseException as raised:
            error = raised
        _hand_over(ready, _Ready([], error), stop)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        while (taken := ready.get()).items:
            yield taken.items.pop()
        if taken.error is not None:
            raise taken.error
    finally:
        stop.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get_nowait()
            thread.join(0.01)


def _hand_over(ready: queue.Queue[_Ready[T]], made: _Ready[T], stop: threading.Event) -> bool:
    """Return whether somebody may still take `made`. A program that ends in mid-epoch waits for its threads."""
    while not stop.is_set() and threading.main_thread().is_alive():
        with contextlib.suppress(queue.Full):
            ready.put(made, timeout=_LOOK_S)
            return True
    return False
