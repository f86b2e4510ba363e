"""The journal on the disk: torn, garbled, long, and where the disk refuses it."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from fasttrain.tracking.journal import Delivered, Entry, Journal, peek


def metrics(step: int, **values: float) -> Entry:
    return {"op": "metrics", "time": 1000 + step, "metrics": values, "step": step}


START: Entry = {"op": "start", "time": 1, "uuid": "u", "experiment": "e", "run_name": "r", "params": {}, "tags": {}}
FINISH: Entry = {"op": "finish", "time": 9, "status": "FINISHED"}


def everything(journal: Journal, start: int = 0, limit: int = 1000) -> list[list[Entry]]:
    batches = []
    while (batch := journal.read(start, limit)).entries:
        batches.append(batch.entries)
        start = batch.end
    return batches


def test_entries_come_in_batches_of_one_kind_and_marks_are_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "j.jsonl")
    journal.append(START)
    for step in range(5):
        journal.append(metrics(step, loss=1.0))
        journal.mark(Delivered("u", "r", step))
    journal.append(FINISH)
    assert everything(journal) == [[START], [metrics(step, loss=1.0) for step in range(5)], [FINISH]]
    assert [len(batch) for batch in everything(journal, limit=2)] == [1, 2, 2, 1, 1]
    assert journal.count(0) == 7
    assert journal.read(journal.size, 10).entries == [] and journal.read(journal.size, 10).end == journal.size


def test_a_journal_larger_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttrain.tracking.journal._CHUNK", 64)
    journal = Journal(tmp_path / "j.jsonl")
    wanted = [metrics(step, loss=step / 7, wide=1e300 * step) for step in range(50)]
    for entry in wanted:
        journal.append(entry)
    assert everything(journal, limit=7) == [wanted[at : at + 7] for at in range(0, 50, 7)]


def test_what_is_there_is_continued_a_torn_line_dropped_garbled_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = Journal(path)
    for entry in (START, metrics(1, loss=1.0, nan=float("nan")), metrics(2, loss=2.0)):
        first.append(entry)
    first.mark(Delivered("uri", "id", 10, (3,)))
    first.close()
    garbled = b'\0\0\0\n[1, 2]\n{"op": "metrics", "time": 1}\n{"op": "else"}\n\xff\xfe\n{"op": "delivered"}\n'
    path.write_bytes(path.read_bytes() + garbled + b'{"op": "metrics", "ti')
    second = Journal(path)
    assert second.garbled == 6 and path.read_bytes().endswith(garbled)
    assert (second.uuid, second.first, second.delivered) == ("u", START, Delivered("uri", "id", 10, (3,)))
    assert second.holds("loss", 1, 1.0) and second.holds("nan", 1, float("nan"))
    assert not second.holds("loss", 1, 2.0) and not second.holds("loss", 3, 1.0)
    second.append(FINISH)
    assert everything(second)[-1] == [FINISH]


def test_a_second_process_neither_cuts_nor_delivers(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = Journal(path)
    first.append(START)
    with path.open("ab") as writing:
        writing.write(b'{"op": "fin')
    second = Journal(path)
    assert first.locked and not second.locked and not second.lock()
    assert path.read_bytes().endswith(b'{"op": "fin')
    first.close()
    assert second.lock()


def test_what_a_full_disk_refuses_is_written_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append(START)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wanted = [metrics(step, loss=1.0) for step in range(20)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        for entry in wanted:
            journal.append(entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.problem and str(path) in journal.problem and "too large" in journal.problem
    assert b"\n" not in path.read_bytes()[-20:], "a line was torn"
    assert everything(journal) == [[START], wanted], "all is there to be delivered"
    journal.append(FINISH)
    assert journal.problem is None
    assert [json.loads(line) for line in path.read_text().splitlines()] == [START, *wanted, FINISH]


def test_what_waits_is_seen_without_opening(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append({**START, "uri": "http://a"})
    journal.append(metrics(1, loss=1.0))
    assert peek(path)[:2] == ("http://a", 2)
    journal.mark(Delivered("http://b", "id", journal.read(0, 1).end))
    assert peek(path)[:2] == ("http://b", 1)
    journal.mark(Delivered("http://b", "id", journal.size, (0,)))
    assert peek(path)[:2] == ("http://b", 1), "what was refused"
    journal.append(FINISH)
    assert peek(path)[:2] == ("http://b", 2)
    journal.mark(Delivered("http://b", "id", journal.size))
    assert peek(path)[:2] == ("http://b", 0)
