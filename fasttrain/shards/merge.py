"""One conversion shared out over machines: each writes every n-th shard into its own folder; `merge` joins them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fasttrain.errors import UserError
from fasttrain.files import atomic_write, atomic_write_bytes, clear_temporaries, fsync_folder, make_folder
from fasttrain.photos.source import SourceSummary
from fasttrain.shards.assemble import assemble
from fasttrain.shards.format import MANIFEST, PARTS, SPLIT_FILE, SPLITS, Manifest, read_manifest
from fasttrain.shards.layout import SHARD_NAME, ShardJob
from fasttrain.shards.parts import Part, read_part
from fasttrain.shards.workplace import RUN, alone_in, clear_parts, local_folder

_SUMMARY = "summary.json"
_MOST_ROWS = 10**8
_FOLDER = re.compile(r"part-(\d+)-of-(\d+)")


def part_folder(out: Path, number: int, count: int) -> Path:
    """Where part `number` of `count` is written: nothing else lies there, so machines may share `out`."""
    return out / f"part-{number}-of-{count}"


def write_summary(folder: Path, source: SourceSummary, jobs: list[ShardJob]) -> None:
    """What `merge` must know and no part's shards say: the source, and all shards of all parts."""
    plain = {"source": asdict(source), "jobs": [(job.name, job.split, len(job.rows)) for job in jobs]}
    atomic_write_bytes(folder / PARTS / _SUMMARY, json.dumps(plain).encode())


def merge(out: str | Path) -> Manifest:
    """Moves the shards of all parts below `out` into `out` and writes the manifest there, as one conversion would have.

    Killed half-way, the same call goes on. Raises UserError where a part is missing, unfinished, or of other
    photographs or settings than the first.
    """
    out = local_folder(out)
    if (out / MANIFEST).exists():
        with alone_in(out, wait=False):
            _remove(_part_folders(out))
            clear_parts(out)
        return read_manifest(out)
    with contextlib.ExitStack() as locks:
        locks.enter_context(alone_in(out, wait=False))
        folders = _all_parts(out)
        for folder in folders:
            locks.enter_context(alone_in(folder, wait=False))
        settings, summary = _same_in_all(folders)
        make_folder(out / PARTS)
        clear_temporaries(out)
        try:
            jobs = _jobs(folders[0], summary)
            plain = summary["source"]
            source = SourceSummary(**{**plain, "classes": tuple(plain["classes"]), "ignored": _pairs(plain["ignored"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folders[0]}: its {_SUMMARY} is damaged; convert it again") from error
        parts = [(job, _moved(job, folders[number % len(folders)], out)) for number, job in enumerate(jobs)]
        fsync_folder(out)  # the parts go once the manifest is there
        if (folders[0] / SPLIT_FILE).exists():
            _link(folders[0] / SPLIT_FILE, out / SPLIT_FILE)
        manifest = assemble(out, source, parts, settings)
        clear_parts(out)
        _remove(folders)
    return manifest


def _part_folders(out: Path) -> list[Path]:
    return [path for path in out.glob("part-*-of-*") if _FOLDER.fullmatch(path.name) and path.is_dir()]


def _all_parts(out: Path) -> list[Path]:
    found = _part_folders(out)
    counts = {int(path.name.rpartition("-")[2]) for path in found}
    if not found:
        raise UserError(f"{out} holds no parts; make them: fasttrain convert --part 1/4 --out {out}, and so on")
    if len(counts) > 1:
        raise UserError(f"{out} holds parts of {' and of '.join(map(str, sorted(counts)))}; remove those of one")
    count = counts.pop()
    folders = [part_folder(out, number, count) for number in range(1, count + 1)]
    if missing := [folder.name for folder in folders if folder not in found]:
        raise UserError(f"{out}: {', '.join(missing)} isn't there; convert it, or copy it here from its machine")
    return folders


def _same_in_all(folders: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    runs, summaries = ([_read(folder / PARTS / name) for folder in folders] for name in (RUN, _SUMMARY))
    for run in runs:
        run.pop("local_state", None)  # each machine has photographs of its own
    for folder, run in zip(folders, runs, strict=True):
        if run != runs[0]:
            raise UserError(
                f"{folder} was made of other photographs or settings than {folders[0].name}; convert it again"
            )
    settings: dict[str, Any] = runs[0]["settings"]
    return settings, summaries[0]


def _jobs(folder: Path, summary: dict[str, Any]) -> list[ShardJob]:
    """The shards that are to be, whose names become files of `out`: a part from elsewhere may not choose others."""
    jobs = []
    for name, split, rows in summary["jobs"]:
        known = SHARD_NAME.fullmatch(name)
        if not (split in (0, 1, 2) and known and known["split"] == SPLITS[split] and 0 < rows <= _MOST_ROWS):
            raise UserError(f"{folder}: its {_SUMMARY} speaks of {str(name)[:40]!r}, not a shard; convert it again")
        jobs.append(ShardJob(name, split, np.arange(rows)))
    return jobs


def _read(path: Path) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.parent.parent}: not a part that `convert --part` made; convert it again") from error
    return plain


def _moved(job: ShardJob, folder: Path, out: Path) -> Part:
    part = read_part(folder, job)
    if part is None:
        raise UserError(f"{folder}: {job.name} isn't finished; run its fasttrain convert --part again")
    if read_part(out, job) == part:  # a merge that was killed came so far; what else lies there is of another one
        return part
    for name in (f"{job.name}.tar", f"{job.name}.idx") if part.keys else ():
        _link(folder / name, out / name)
    atomic_write_bytes(out / PARTS / f"{job.name}.json", (folder / PARTS / f"{job.name}.json").read_bytes())
    return part


def _link(there: Path, here: Path) -> None:
    # Not a move: a merge that is killed must find the parts as they were.
    here.unlink(missing_ok=True)
    try:
        os.link(there, here)
    except OSError:  # not every file system has links
        with there.open("rb") as part, atomic_write(here) as file:
            shutil.copyfileobj(part, file)


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _pairs(plain: list[list[str]]) -> tuple[Any, ...]:
    return tuple((path, reason) for path, reason in plain)
