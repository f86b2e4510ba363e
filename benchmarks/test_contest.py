"""Everyone on the same photographs in one run: rounds in which each runs an epoch in turn, and medians over them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from peers import ALL, PEERS_AT_SOURCE_RESOLUTION, folder_of
from results import SHOWN, draw_loaders

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.6  # neighbours on the CPU slow the decoder, which lives in the caches, more than a full decode
SHORT = ["floor", "native", "native, raw 256 px"]


def bytes_per_image(name, photographs, root, images):
    files = [path for path in folder_of(name, root).rglob("*") if path.is_file()]
    files = files or list(photographs.rglob("*.jp*g"))
    return sum(path.stat().st_size for path in files) / images


def test_contest(photographs, contenders, results, short, pytestconfig, tmp_path_factory):
    rounds = 9 if short else 5
    running = {}
    for name in SHORT if short else ALL:
        if process := contenders(name, photographs):
            running[name] = process
    if "floor" not in running:
        pytest.skip("without TurboJPEG there is no full decode to compare with")
    first = {name: process.first_batch() for name, process in running.items()}
    for process in running.values():
        process.epoch()
    rates, cpu = ({name: [] for name in running} for _ in range(2))
    for _ in range(rounds):
        for name, process in running.items():
            found = process.epoch(repeats=2 if short else 1)
            rates[name].append(found["images"] / found["seconds"])
            cpu[name].append(1000 * found["cpu_seconds"] / found["images"])
    memory = {name: process.memory() for name, process in running.items()}
    root = tmp_path_factory.getbasetemp() / "contest0" / f"{photographs.parent.name}-{photographs.name}"
    count = len(list(photographs.rglob("*.jp*g")))
    part = {
        name: {
            "img/s": statistics.median(rates[name]),
            "ratio_to_floor": statistics.median(a / b for a, b in zip(rates[name], rates["floor"], strict=True)),
            "cpu_ms_per_image": statistics.median(cpu[name]),
            "first_batch_seconds": first[name],
            "memory_mb": memory[name],
            "bytes_per_image": bytes_per_image(name, photographs, root, count),
        }
        for name in running
    }
    results.add("contest", part)
    report(results, part, rates)
    check_baseline(rates, "drawn" if short else "made", pytestconfig)


def report(results, part, rates):
    header = ["loader", "img/s", "times full decode", "CPU ms/img", "first batch, s", "memory, MB", "kB/img"]
    rows = [
        [
            f"**{name}**" if name.startswith("native") else SHOWN.get(name, name),
            f"{found['img/s']:,.0f}",
            f"{found['ratio_to_floor']:.2f}",
            f"{found['cpu_ms_per_image']:.2f}",
            f"{found['first_batch_seconds']:.2f}",
            f"{found['memory_mb']:,.0f}",
            f"{found['bytes_per_image'] / 1000:.1f}",
        ]
        for name, found in part.items()
    ]
    results.add_table("loaders", header, rows)
    ratios = {}
    peers = [name for name in PEERS_AT_SOURCE_RESOLUTION if name in part]
    if peers:
        best = max(peers, key=lambda name: part[name]["img/s"])
        ratios[f"native / the best peer at the source's resolution ({best})"] = ("native", best)
    antialiased = [name for name in peers if "no antialias" not in name]
    if antialiased:
        best = max(antialiased, key=lambda name: part[name]["img/s"])
        ratios[f"native / the best peer that antialiases, as native does ({best})"] = ("native", best)
    for ours, theirs in (
        ("native", "floor"),
        ("native, 400 px", "FFCV, 400 px"),
        ("native, 256 px", "FFCV, 256 px"),
        ("native, raw 256 px", "FFCV, raw 256 px"),
    ):
        if ours in part and theirs in part:
            ratios[f"{ours} / {SHOWN.get(theirs, theirs)}"] = (ours, theirs)
    found = {
        what: statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))
        for what, (ours, theirs) in ratios.items()
    }
    results.add("ratios", found)
    results.add_table("ratios", ["ratio", "measured"], [[what, f"{ratio:.2f}"] for what, ratio in found.items()])
    draw_loaders(results.folder, part)


def check_baseline(rates, photographs, pytestconfig):
    """Compare the fastest rounds, since other work on the machine can only slow a round."""
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    fastest = {name: max(each) for name, each in rates.items()}
    found = {name: round(fastest[name] / fastest["floor"], 2) for name in rates if name.startswith("native")}
    print("ratios of the fastest rounds:", found)
    if pytestconfig.getoption("ratio_save"):
        BASELINE.write_text(json.dumps({**baseline, photographs: found}, indent=1) + "\n")
    if pytestconfig.getoption("ratio_check"):
        slower = {
            name: f"{ratio} where it was {before}"
            for name, ratio in found.items()
            if (before := baseline.get(photographs, {}).get(name)) and ratio < TOLERANCE * before
        }
        assert not slower, f"ratios to a full decode fell: {slower}"
