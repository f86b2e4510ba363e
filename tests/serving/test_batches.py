"""Photographs wait for a batch as long as more are on their way, and no longer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from fasttrain.serving.admission import Admission
from fasttrain.serving.batches import Batches
from fasttrain.serving.limits import Limits, Refused

FOREVER = 600.0


class Work:
    """Notes its batches; each waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        self.begun.release()
        assert self.free.wait(FOREVER)
        if -1 in batch:
            raise ValueError("no such number")
        return [each * 10 for each in batch]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_what_comes_while_a_batch_runs_is_the_next_one():
    async def test() -> None:
        work = Work()
        batches: Batches[int, int] = Batches(work, size=3, wait=FOREVER)
        batches.start()
        first = asyncio.ensure_future(batches.run(1))
        await asyncio.to_thread(work.begun.acquire)  # alone: nothing else was on its way
        others = [asyncio.ensure_future(batches.run(number)) for number in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        others[0].cancel()  # nobody waits for it any more
        work.free.set()
        assert [await each for each in (first, *others[1:])] == [10, 30, 40, 50]
        assert work.batches == [[1], [3, 4, 5]]
        await batches.stop()

    run(test())


def test_a_batch_waits_for_what_is_on_its_way():
    async def test() -> None:
        work = Work()
        work.free.set()
        batches: Batches[int, int] = Batches(work, size=3, wait=FOREVER)
        batches.start()
        with batches.expect():
            first = asyncio.ensure_future(batches.run(1))
            await asyncio.sleep(0.05)
            assert not work.batches
        second = asyncio.ensure_future(batches.run(2))
        assert [await first, await second] == [10, 20] and work.batches == [[1, 2]]
        with batches.expect():  # which never comes: a full batch doesn't wait for it
            assert await asyncio.gather(*map(batches.run, (3, 4, 5))) == [30, 40, 50]
        await batches.stop()

    run(test())


def test_an_error_reaches_its_batch_alone():
    async def test() -> None:
        work = Work()
        work.free.set()
        batches: Batches[int, int] = Batches(work, size=2, wait=0)
        batches.start()
        with pytest.raises(ValueError, match="no such number"):
            await batches.run(-1)
        assert await batches.run(7) == 70 and batches.running
        await batches.stop()
        assert not batches.running

    run(test())


def test_a_place_is_held_by_work_that_outlives_its_request():
    admission = Admission(Limits(queue=2, bodies=100))
    with admission.enter() as place:
        place.grow(photographs=1, size=60)
        place.hold()
    assert admission.photographs == 2 and admission.bytes == 60
    with pytest.raises(Refused, match="queue is full") as error, admission.enter():
        pass
    assert error.value.status == 429 and int(error.value.headers["Retry-After"]) >= 1
    place.release()
    assert admission.photographs == admission.bytes == 0
    with pytest.raises(Refused), admission.enter() as place:
        place.grow(size=101)
    assert admission.photographs == admission.bytes == 0
