"""Join the parts of a conversion by several machines, each of which wrote every n-th shard into its own folder."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fasttrain.errors import UserError
from fasttrain.photos.source import SourceSummary
from fasttrain.shards.assemble import assemble
from fasttrain.shards.destination import Destination
from fasttrain.shards.format import DUPLICATES, EXTRA, MANIFEST, PARTS, SPLIT_FILE, SPLITS, Manifest
from fasttrain.shards.layout import SHARD_NAME, ShardJob
from fasttrain.shards.parts import Part, read_parts
from fasttrain.shards.workplace import RUN, destination

_SUMMARY = "summary.json"
_MOST_ROWS = 10**8
_FOLDER = re.compile(r"part-(\d+)-of-(\d+)")


def part_name(number: int, count: int) -> str:
    """Return the folder name of part `number` of `count`.

    Each part has its own folder, so several machines may share `--out`.
    """
    return f"part-{number}-of-{count}"


def refuse_finished(out: Destination) -> None:
    """Raise UserError if the parts in `out` are already merged."""
    if out.has(MANIFEST):
        raise UserError(f"{out} already holds a complete data set; give another --out")


def write_summary(folder: Destination, source: SourceSummary, jobs: list[ShardJob]) -> None:
    """Write the file that `merge` needs besides the shards: the source, and the list of the shards of all parts."""
    plain = {"source": asdict(source), "jobs": [(job.name, job.split, len(job.rows)) for job in jobs]}
    folder.write(f"{PARTS}/{_SUMMARY}", json.dumps(plain).encode())


def merge(out: str | Path) -> Manifest:
    """Move the shards of all parts in `out` into it and write the manifest. Return the manifest.

    The result equals that of a conversion on one machine. In a bucket the shards are already in place, and none of them
    is read. After an interruption, the same call resumes. Raises UserError if a part is missing or unfinished, or was
    made from other photographs or settings than the first one.
    """
    place = destination(out)
    if place.has(MANIFEST):
        with place.exclusive(wait=False):
            for name in _part_names(place):
                place.remove_folder(name)
            place.remove_folder(PARTS)
        return place.manifest()
    with contextlib.ExitStack() as locks:
        locks.enter_context(place.exclusive(wait=False))
        names = _all_parts(place)
        folders = [place.below(name) for name in names]
        for folder in folders:
            locks.enter_context(folder.exclusive(wait=False))
        settings, summary = _same_in_all(folders)
        place.clear_unfinished()
        try:
            jobs = _jobs(folders[0], summary)
            plain = summary["source"]
            source = SourceSummary(**{**plain, "classes": tuple(plain["classes"]), "ignored": _pairs(plain["ignored"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folders[0]}: its {_SUMMARY} is damaged; make these shards again with `fasttrain convert`"
            ) from error
        parts = _moved(jobs, folders, place)
        place.flush()  # before the manifest is written and the parts are removed
        for name in (SPLIT_FILE, DUPLICATES, EXTRA):
            if folders[0].has(name):
                place.write(name, folders[0].read(name))
        manifest = assemble(place, source, parts, settings)
        place.remove_folder(PARTS)
        for name in names:
            place.remove_folder(name)
    return manifest


def _part_names(out: Destination) -> list[str]:
    """Return the names of the parts' folders in `out`."""
    return [name for name in out.names() if _FOLDER.fullmatch(name)]


def _all_parts(out: Destination) -> list[str]:
    """Return the names of all parts' folders. Raises UserError if one is missing."""
    found = _part_names(out)
    counts = {int(name.rpartition("-")[2]) for name in found}
    if not found:
        raise UserError(f"{out} holds no parts; make them: fasttrain convert SOURCE --part 1/4 --out {out}, and so on")
    if len(counts) > 1:
        raise UserError(
            f"{out} holds parts of conversions into {' and '.join(map(str, sorted(counts)))} parts; remove the parts "
            "of all conversions but one"
        )
    count = counts.pop()
    names = [part_name(number, count) for number in range(1, count + 1)]
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"{out} lacks {', '.join(missing)}; convert the missing parts, or copy them here from other machines"
        )
    return names


def _same_in_all(folders: list[Destination]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the summary of the parts. Raises UserError if the parts differ in source or settings."""
    runs, summaries = ([_read(folder, name) for folder in folders] for name in (RUN, _SUMMARY))
    for run in runs:
        run.pop("local_state", None)  # differs between machines
    for folder, run in zip(folders, runs, strict=True):
        if run != runs[0]:
            raise UserError(
                f"{folder} was made from other photographs or settings than {Path(str(folders[0])).name}; convert it "
                "again"
            )
    settings: dict[str, Any] = runs[0]["settings"]
    return settings, summaries[0]


def _jobs(folder: Destination, summary: dict[str, Any]) -> list[ShardJob]:
    """Return the shards of all parts.

    Raises UserError for an invalid shard name, because the names become file names in `out`.
    """
    jobs = []
    for name, split, rows in summary["jobs"]:
        known = SHARD_NAME.fullmatch(name)
        if not (split in (0, 1, 2) and known and known["split"] == SPLITS[split] and 0 < rows <= _MOST_ROWS):
            raise UserError(
                f"{folder}: its {_SUMMARY} lists {str(name)[:40]!r}, not a shard's name; convert this part again"
            )
        jobs.append(ShardJob(name, split, np.arange(rows)))
    return jobs


def _read(folder: Destination, name: str) -> dict[str, Any]:
    """Return the object in a part's JSON file. Raises UserError if it can't be read."""
    try:
        plain: dict[str, Any] = json.loads(folder.read(f"{PARTS}/{name}"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: not a part that `convert --part` made; convert it again") from error
    return plain


def _moved(jobs: list[ShardJob], folders: list[Destination], out: Destination) -> list[tuple[ShardJob, Part]]:
    """Move the shards of all parts to `out`. Return the jobs and their records."""
    found: dict[str, Part] = {}
    for number, folder in enumerate(folders):
        for job, part in read_parts(folder, jobs[number :: len(folders)]):
            if part is None:
                raise UserError(
                    f"{folder}: {job.name} isn't finished; run fasttrain convert --part again for this part"
                )
            found[job.name] = part
    # A merge that was killed may have moved some already.
    for number, (job, there) in enumerate(read_parts(out, jobs)):
        if there != found[job.name]:
            out.take_shard(folders[number % len(folders)], job.name, empty=not found[job.name].keys)
    return [(job, found[job.name]) for job in jobs]


def _pairs(plain: list[list[str]]) -> tuple[Any, ...]:
    return tuple((path, reason) for path, reason in plain)
