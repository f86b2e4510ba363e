"""Read the journal that older versions of fasttrain kept in a run's folder: one JSON object per line."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

JOURNAL = "tracking.jsonl"


def read_journal(path: Path) -> tuple[dict[str, Any], bool] | None:
    """Return the `Record` fields that the journal at `path` holds, and whether the store has received all of them.

    Returns None if no line identifies the run. Raises OSError if the journal can't be read.
    """
    lines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line torn by a kill or a full disk
            entry = json.loads(line)
            lines[entry["op"]].append({**entry, "at": end})
        end += len(line)
    if not (starts := lines["start"]):
        return None
    first, last = starts[0], starts[-1]
    unnamed = {name: value for name, value in first.items() if name != "at"}
    found: dict[str, Any] = {
        "uuid": first.get("uuid") or uuid5(NAMESPACE_OID, json.dumps(unnamed)).hex,
        "experiment": last["experiment"],
        "run_name": first["run_name"],
        "params": last["params"],
        "tags": dict(last["tags"]),
        "uri": last.get("uri"),
        "began": first["time"],
    }
    for entry in lines["tags"]:
        found["tags"] |= entry["tags"]
    is_set_aside = path.name != JOURNAL
    for finish in lines["finish"][-1:]:
        if finish["at"] > last["at"]:
            files = [
                Path(entry["path"]) for entry in lines["artifact"] if entry["at"] > last["at"] and not is_set_aside
            ]
            artifacts = [str(file) for file in files if not file.is_absolute()]
            found |= {"status": finish["status"], "ended": finish["time"], "artifacts": artifacts}
    rows = [{name: entry[name] for name in ("step", "time", "metrics")} for entry in lines["metrics"]]
    if is_set_aside or not (path.parent / "history.json").exists():
        found["metrics"] = rows
    else:
        found["times"] = {str(row["step"]): row["time"] for row in reversed(rows)}
    has_all = False
    for mark in lines["delivered"][-1:]:
        found |= {"uri": mark["uri"], "run_id": mark["run_id"]}
        entries = [entry for op, several in lines.items() if op != "delivered" for entry in several]
        has_all = not mark.get("refused") and all(entry["at"] < mark.get("end", 0) for entry in entries)
    return found, has_all
