"""Journals that still hold what their store lacks: found, shown, delivered."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.tracking.delivery import Busy, deliver, reason
from fasttrain.tracking.journal import JOURNAL, JOURNALS, Waiting, peek
from fasttrain.tracking.store import local_uri, set_environment, shown

RUNS = Path("runs")


def waiting_journals(folders: Sequence[Path]) -> Iterator[tuple[Path, Waiting]]:
    """The journals in and below `folders` that hold what their store lacks."""
    found = (
        path
        for folder in folders
        for path in (*sorted(folder.glob(JOURNALS)), *sorted(folder.glob(f"*/**/{JOURNALS}")))
    )
    for path in dict.fromkeys(found):
        with contextlib.suppress(OSError):
            if (state := peek(path)).entries:
                yield path, state


def deliver_waiting(own: Path, uri: str, report: Callable[[str], None], go_on: Callable[[], bool]) -> None:
    """Delivers what the runs in the folders beside that of the journal `own` could not bring to the store at `uri`.

    What goes wrong is left for the next time.
    """
    for path in sorted(own.parent.parent.glob(f"*/{JOURNALS}")):
        try:
            if not go_on():
                return
            if path == own or (state := peek(path)).uri != shown(uri) or not state.entries:
                continue
            if deliver(path, uri, report, go_on) == 0:
                report(f"MLflow: {path.parent}, which waited, is delivered: {state.entries} entries")
        except Exception as error:  # the run itself must go on, whatever another's journal holds
            logging.getLogger("fasttrain").debug("MLflow: %s still waits: %s", path, reason(error))


def deliver_runs(folders: Sequence[Path], say: Callable[[str], None]) -> None:
    """Delivers the journals in and below `folders` to $MLFLOW_TRACKING_URI, else to the store that each was meant for.

    `say` gets a line a run. Raises UserError for a folder that isn't there, and, after all were tried, where a store
    still lacks something.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; give run folders, or folders of them")
    set_environment()
    failed: list[str] = []
    away: dict[str, str] = {}
    waited = False
    for path, state in waiting_journals(folders):
        waited = True
        uri = os.environ.get("MLFLOW_TRACKING_URI") or state.uri or local_uri()
        if uri in away:
            failed.append(f"{path.parent}: {away[uri]}")
            continue
        try:
            left = deliver(path, uri, say)
        except Busy:
            say(f"{path.parent}: its run is going on, and delivers by itself")
        except Exception as error:  # MLflow's, requests', SQLAlchemy's, OSError
            away[uri] = f"{shown(uri)} ({reason(error)})"
            failed.append(f"{path.parent}: {away[uri]}")
        else:
            if left:
                failed.append(f"{path.parent}: {shown(uri)} refuses {left} entries")
            else:
                say(f"{path.parent}: delivered to {shown(uri)}")
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; what is left stays in {JOURNAL}: try again later")
    if not waited:
        say(f"nothing waits in {', '.join(map(str, folders))}")
