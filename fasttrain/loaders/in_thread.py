"""Run a generator in its own thread, so that its work costs the training loop's thread nothing."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_CHECK_S = 0.2  # seconds between checks for the program's end while nobody takes the item


class _Message(NamedTuple, Generic[T]):
    """A message of the thread: an item, or none at the end, with the generator's error if it failed."""

    items: list[T]
    error: BaseException | None = None


def in_thread(items: Generator[T, None, None], name: str) -> Generator[T, None, None]:
    """Yield the items of `items`, which runs in a thread called `name` from the first item on.

    While the consumer works, one item is ready and the next one is being made. The consumer gets exceptions of `items`.
    Closing this generator closes `items`, in its thread, and waits until the thread has ended.
    """
    ready: queue.Queue[_Message[T]] = queue.Queue(1)
    stop = threading.Event()

    def run() -> None:
        error = None
        try:
            with contextlib.closing(items):
                for item in items:
                    made = [item]
                    del item  # only the consumer keeps it alive
                    if not _hand_over(ready, _Message(made), stop):
                        return
                    del made
        except BaseException as raised:
            error = raised
        _hand_over(ready, _Message([], error), stop)

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


def _hand_over(ready: queue.Queue[_Message[T]], made: _Message[T], stop: threading.Event) -> bool:
    """Put `made` into the queue, waiting while it is full, and return whether that succeeded.

    The result is False if `stop` is set, or if the program is ending, because Python waits for this thread at its end.
    """
    while not stop.is_set() and threading.main_thread().is_alive():
        with contextlib.suppress(queue.Full):
            ready.put(made, timeout=_CHECK_S)
            return True
    return False
