"""The clock of every benchmark of loaders: an epoch counts from an empty queue, and one that doesn't is found out."""

from __future__ import annotations

import threading
import time

import pytest
from peers.process import COLD, ContenderProcess, run_epochs, wait_until_idle

BATCHES, SECONDS = 10, 0.02


class Cold:
    """Makes each batch when it is asked for."""

    ready = 0

    def batches(self):
        for number in range(BATCHES):
            if number >= self.ready:
                time.sleep(SECONDS)
            yield 64


class Warm(Cold):
    """Holds a batch that was made before the epoch."""

    ready = 1


def test_a_cold_epoch_passes_and_a_warm_one_is_found_out():
    process = ContenderProcess.__new__(ContenderProcess)  # its check alone, without a process
    process.name = "a loader"
    process.first_shares = run_epochs(Cold(), repeats=3)["first_shares"]
    assert min(process.first_shares) > COLD
    process.require_cold()
    process.first_shares = run_epochs(Warm(), repeats=3)["first_shares"]
    with pytest.raises(RuntimeError, match="before the epoch was timed"):
        process.require_cold()


def test_the_clock_waits_for_what_a_loader_still_does():
    end = time.perf_counter() + 0.5

    def work():
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    wait_until_idle()
    assert time.perf_counter() > end
    thread.join()


def test_a_loader_that_never_rests_is_an_error():
    rest = threading.Event()

    def work():
        while not rest.is_set():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="still works"):
            wait_until_idle(patience=0.5)
    finally:
        rest.set()
        thread.join()
