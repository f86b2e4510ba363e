"""Collect the photographs of many requests into batches for the model."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Runs the function `work` on batches of waiting items, in a separate thread.

    `work`: takes a sequence of items and returns the result of each, in the same order. `size`: the number of items in
    a full batch. `wait`: the longest time that a batch waits for more items, in seconds.

    A batch starts when it is full, when no context of `expect` is open, or after waiting for `wait` seconds. While a
    batch runs, items collect for the next one, so batches grow with the load. Only one event loop may use an instance.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], size: int, wait: float) -> None:
        self._work, self._size, self._wait = work, size, wait
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fasttrain-model")
        self._task: asyncio.Task[None] | None = None
        self._expected = 0

    @contextlib.contextmanager
    def expect(self) -> Iterator[None]:
        """Return a context that announces an item. While it is open, a batch that isn't full waits for more items."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._changed.set()

    async def run(self, item: Item) -> Result:
        """Add `item` to the next batch, wait for the batch, and return the item's result.

        If `work` raises an exception for the batch, this raises the same exception.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._changed.set()
        return await future

    def start(self) -> None:
        """Start to run batches. Their items must come from the current event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop, without running the items that still wait."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def running(self) -> bool:
        """Return whether added items will be run: after `start`, and before `stop` or an internal error."""
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        """Run one batch after the other, and set the results of their items."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_batch()
            batch = self._next_batch()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _wait_for_batch(self) -> None:
        """Wait until a batch should start: it is full, no more items are expected, or the time is over."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait
        while len(self._waiting) < self._size and self._expected and (remaining := end - loop.time()) > 0:
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), remaining)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Return the next batch. Items whose request was cancelled are dropped."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
