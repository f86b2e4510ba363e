"""A generator in a thread of its own: the same items and errors, one ready ahead, and no thread that outlives it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from fasttrain.loaders.in_thread import in_thread
from tests.support.patience import PATIENCE


def until(holds):
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds()


def test_items_come_in_order_from_another_thread():
    threads = set()

    def items():
        for number in range(100):
            threads.add(threading.current_thread())
            yield number

    assert list(in_thread(items(), "items")) == list(range(100))
    (thread,) = threads
    assert thread is not threading.current_thread() and thread.name == "items" and not thread.is_alive()


def test_at_most_two_are_made_before_they_are_asked_for():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    taken = in_thread(items(), "items")
    assert next(taken) == 0
    until(lambda: len(made) == 3)
    time.sleep(0.1)
    assert len(made) == 3, "one is ready, and one is held until that is taken"
    taken.close()


def test_an_error_is_raised_where_the_items_are_used():
    def items():
        yield 1
        raise KeyError("broken")

    taken = in_thread(items(), "items")
    assert next(taken) == 1
    with pytest.raises(KeyError, match="broken"):
        next(taken)
    assert list(taken) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_consumer_that_stops_early_closes_the_generator_in_its_thread(count):
    ended = []

    def items():
        try:
            while True:
                yield 0
        finally:
            ended.append(threading.current_thread())

    taken = in_thread(items(), "items")
    for _ in range(count):
        next(taken)
    taken.close()
    assert [thread.name for thread in ended] == ["items"] * (count > 0)
    assert not any(thread.is_alive() for thread in ended)


def test_no_item_is_kept_alive():
    def items():
        for _ in range(3):
            yield np.zeros(3)

    taken = in_thread(items(), "items")
    seen = [weakref.ref(next(taken)) for _ in range(3)]
    assert [each() for each in seen] == [None] * 3
    taken.close()


_LEFT = """
from fasttrain.loaders.in_thread import in_thread
def items():
    while True:
        yield 0
taken = in_thread(items(), "items")
next(taken)
"""


def test_a_program_that_ends_in_mid_epoch_does_not_wait_for_it():
    done = subprocess.run([sys.executable, "-c", _LEFT], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and not done.stderr, done.stderr
