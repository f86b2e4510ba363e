"""How the native loader's rate moves with the size of the photographs, the threads, the disk and the consumer."""

from __future__ import annotations

import statistics

import pytest
from results import SHOWN
from rounds import measure_rates


@pytest.fixture(autouse=True)
def _long(short):
    if short:
        pytest.skip("not in the short form")


def interleaved(processes, rounds, repeats=1):
    """Median img/s of each."""
    rates = measure_rates(processes, rounds, repeats)
    return {name: statistics.median(each) for name, each in rates.items()}


def test_image_size(made_photographs, contenders, results):
    part = {}
    for size, count in ((256, 1000), (512, 1000), (1024, 400), (2048, 200)):
        photographs = made_photographs(count, size)
        names = ("floor", "native", "torchvision v2")
        running = {name: process for name in names if (process := contenders(name, photographs))}
        part[size] = interleaved(running, rounds=3, repeats=3)
        for process in running.values():
            process.close()
    results.add("image_size", part)
    rows = [
        [f"{size} px", *(f"{found[name]:,.0f}" for name in names), f"{found['native'] / found['torchvision v2']:.1f}"]
        for size, found in part.items()
    ]
    results.add_table(
        "image_size", ["longest side", *(SHOWN.get(name, name) for name in names), "native / torchvision v2"], rows
    )


def test_threads(photographs, contenders, results):
    part = {}
    for threads in (1, 2):
        running = {name: process for name in ("floor", "native") if (process := contenders(name, photographs, threads))}
        part[threads] = interleaved(running, rounds=5)
    results.add("threads", part)
    rows = [[str(threads), *(f"{rate:,.0f}" for rate in found.values())] for threads, found in part.items()]
    results.add_table("threads", ["threads", *(SHOWN.get(name, name) for name in part[1])], rows)


def test_a_consumer_as_fast_as_a_gpu(photographs, contenders, results):
    """It sleeps batch / 4,000 s between batches, as a GPU's step at 4,000 img/s would take."""
    process = contenders("native", photographs)
    process.epoch()
    found = [process.epoch(pause=64 / 4000, repeats=3) for _ in range(5)]
    part = {
        "within_an_epoch": statistics.median(
            (each["waited"] - each["waited_first"]) / (each["seconds"] - each["waited_first"]) for each in found
        ),
        "with_epoch_starts": statistics.median(each["waited"] / each["seconds"] for each in found),
    }
    results.add("waiting_share", part)
    within, starts = (f"{100 * share:.1f} %" for share in part.values())
    print(f"\na consumer at 4,000 img/s waits {within} of an epoch, {starts} with its start, of 32 batches")


def test_cold_page_cache(photographs, contenders, results):
    names = ("native", "native, no read-ahead", "torchvision v2", "WebDataset, decode_image")
    running = {name: process for name in names if (process := contenders(name, photographs))}
    rates = {name: [] for name in running}
    for process in running.values():
        process.epoch()
    for _ in range(5):
        for name, process in running.items():
            found = process.cold()
            rates[name].append(found["images"] / found["seconds"])
    part = {name: statistics.median(each) for name, each in rates.items()}
    results.add("cold", part)
    results.add_table(
        "cold", ["cold page cache, opening included", "img/s"], [[n, f"{r:,.0f}"] for n, r in part.items()]
    )
