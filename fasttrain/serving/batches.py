"""Photographs of many requests, shown to the model in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


class Batches(Generic[Given, Made]):
    """Runs `work` on what was given since its last batch, in a thread of its own. Used by one event loop.

    A batch starts when it holds `size`, when nothing is on its way to it any more, or after `wait` seconds. While one
    runs, the next one gathers: the busier the service, the larger they are.
    """

    def __init__(self, work: Callable[[Sequence[Given]], Sequence[Made]], size: int, wait: float) -> None:
        self._work, self._size, self._wait = work, size, wait
        self._waiting: deque[tuple[Given, asyncio.Future[Made]]] = deque()
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fasttrain-model")
        self._task: asyncio.Task[None] | None = None
        self.on_the_way = 0

    @contextlib.contextmanager
    def expect(self) -> Iterator[None]:
        """Announce one more, for which a batch that isn't full waits."""
        self.on_the_way += 1
        try:
            yield
        finally:
            self.on_the_way -= 1
            self._more.set()

    async def run(self, given: Given) -> Made:
        """Return what `work` makes of `given`. Raises what `work` raised."""
        future: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self._waiting.append((given, future))
        self._more.set()
        return await future

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gathered()
            batch = self._take()
            if not batch:
                continue
            try:
                made = await loop.run_in_executor(self._thread, self._work, [given for given, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), each in zip(batch, made, strict=True):
                if not future.done():
                    future.set_result(each)

    async def _gathered(self) -> None:
        """Return once a batch should start."""
        while not self._waiting:
            self._more.clear()
            await self._more.wait()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait
        while len(self._waiting) < self._size and self.on_the_way and (left := end - loop.time()) > 0:
            self._more.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._more.wait(), left)

    def _take(self) -> list[tuple[Given, asyncio.Future[Made]]]:
        """Return the next batch, without those that nobody waits for any more."""
        batch: list[tuple[Given, asyncio.Future[Made]]] = []
        while self._waiting and len(batch) < self._size:
            given, future = self._waiting.popleft()
            if not future.done():
                batch.append((given, future))
        return batch
