"""Read the file of an offline W&B run: W&B's protobufs in LevelDB's log format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        if (left := _BLOCK - at % _BLOCK) < _HEADER:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # all of a record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(path: Path) -> list[dict[str, Any]]:
    """Return the logged rows, as W&B's page would show them."""
    rows = (each.history.item for each in records(path) if each.WhichOneof("record_type") == "history")
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def summary(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in records(path):
        for item in each.summary.update:
            found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


def config(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in records(path):
        for item in each.config.update:
            found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found
