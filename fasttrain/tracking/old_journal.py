"""The journal that older versions of fasttrain kept in a run's folder: a JSON object a line."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from fasttrain.tracking.record import JOURNAL, Record


def record_of_journal(path: Path) -> Record | None:
    """Return the record that says what the journal at `path` does; None where no line says which run it is.

    Raises OSError.
    """
    lines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a kill or a full disk
            entry = json.loads(line)
            lines[entry["op"]].append({**entry, "at": end})
        end += len(line)
    if not (starts := lines["start"]):
        return None
    first, last = starts[0], starts[-1]
    unnamed = {name: value for name, value in first.items() if name != "at"}
    record = Record(
        path=path.with_suffix(".json"),
        uuid=first.get("uuid") or uuid5(NAMESPACE_OID, json.dumps(unnamed)).hex,
        experiment=last["experiment"],
        run_name=first["run_name"],
        params=last["params"],
        tags=dict(last["tags"]),
        uri=last.get("uri"),
        began=first["time"],
    )
    for entry in lines["tags"]:
        record.tags |= entry["tags"]
    aside = path.name != JOURNAL
    for finish in lines["finish"][-1:]:
        if finish["at"] > last["at"]:
            record.status, record.ended = finish["status"], finish["time"]
            files = [Path(entry["path"]) for entry in lines["artifact"] if entry["at"] > last["at"] and not aside]
            record.artifacts = [str(file) for file in files if not file.is_absolute()]
    rows = [{name: entry[name] for name in ("step", "time", "metrics")} for entry in lines["metrics"]]
    if aside or not (path.parent / "history.json").exists():
        record.metrics = rows
    else:
        record.times = {str(row["step"]): row["time"] for row in reversed(rows)}
    for mark in lines["delivered"][-1:]:
        record.uri, record.run_id = mark["uri"], mark["run_id"]
        entries = [entry for op, found in lines.items() if op != "delivered" for entry in found]
        if not mark.get("refused") and all(entry["at"] < mark.get("end", 0) for entry in entries):
            record.delivered = [entry.key for entry in record.entries()]
    return record
