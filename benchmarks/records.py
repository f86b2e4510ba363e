"""Results of runs that take hours: a JSON line for each, appended whole or not at all, and what tables say of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Add `record` to `path` in one write. A line that an earlier, killed call left torn is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    line = ("\n" if torn else "") + json.dumps(record) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Record]:
    """Return the records in `path`; torn lines are left out, so their runs are done again."""
    return list(_intact(path.read_text().splitlines())) if path.exists() else []


def _intact(lines: Sequence[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def matching(records: Sequence[Record], key: Record) -> list[Record]:
    """Return those of `records` that have all items of `key`."""
    return [record for record in records if record.items() >= key.items()]


def has(records: Sequence[Record], key: Record) -> bool:
    """Return whether one of `records` has all items of `key`."""
    return bool(matching(records, key))


def rights(records: Sequence[Record], **key: Any) -> list[np.ndarray]:
    """Return which photographs were right, bool [n], for each of the `records` that have `key`, in order of seeds."""
    found = sorted(matching(records, key), key=lambda each: each["seed"])
    return [np.array(list(each["right"])) == "1" for each in found]


def interval(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray] | None = None) -> tuple[float, float, float]:
    """Return the mean top1, or its difference from `theirs`, with the ends of its 95 % interval.

    It is a bootstrap over photographs, all seeds together. The difference is paired: both are asked about the same
    photographs.
    """
    values = np.mean(ours, axis=0, dtype=float)
    if theirs is not None:
        values = values - np.mean(theirs, axis=0, dtype=float)
    rows = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def shown(found: tuple[float, float, float], sign: str = "") -> str:
    """Return an `interval` as percent: "90.1 (88.0 to 92.1)"."""
    mean, low, high = (f"{100 * each:{sign}.1f}" for each in found)
    return f"{mean} ({low} to {high})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
