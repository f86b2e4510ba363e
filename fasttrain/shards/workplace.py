"""Prepare the folder or bucket that `convert` writes to, depending on its contents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fasttrain.config.location import is_url, url_in_path, user_path
from fasttrain.errors import UserError
from fasttrain.photos.source import Source
from fasttrain.shards.bucket import Bucket
from fasttrain.shards.destination import Destination, Folder
from fasttrain.shards.format import (
    APPENDED,
    MANIFEST,
    PARTS,
    Manifest,
)
from fasttrain.shards.layout import SHARD_NAME, ShardJob
from fasttrain.shards.parts import read_parts
from fasttrain.shards.settings import ADDED
from fasttrain.urls import file_system

_SHARD = re.compile(rf"{SHARD_NAME.pattern}\.(tar|idx)")
_BETON = re.compile(r"(train|val|test)\.beton|beton\.json|\..+\.beton\.[0-9a-f]+\.partial")
RUN = "run.json"
_CLEARING = "clearing"
_LIST = re.compile(
    r"index(-\d+)?\.npy|(rejected|converted|label_conflicts)(-\d+)?\.tsv|(splits|duplicates)(-\d+)?\.csv|extra_labels(-\d+)?\.jsonl"
)


def destination(out: str | Path) -> Destination:
    """Return the `Destination` for the path or URL `out`. A file:// URL is a folder.

    Raises UserError for a URL given as a Path, and for a URL that can't be written.
    """
    if not is_url(out):
        if url := url_in_path(out):
            raise UserError(f"--out {out}: did you mean '{url}'? Give a string, because a Path removes a slash")
        return Folder(user_path(out))
    url = str(out).rstrip("/")
    if url.startswith("file://"):
        return Folder(Path(url.removeprefix("file://")))
    if not url.partition("://")[2] or set(url) & set("*?[]#"):
        raise UserError(f"--out {out}: give a bucket and a folder in it, without * ? [ ] #, such as s3://bucket/shards")
    if url.startswith(("http://", "https://")):
        raise UserError(f"--out {out}: a web server can't be written to; give an s3:// or gs:// URL, or a folder")
    file_system(url)  # raises if its driver is missing
    return Bucket(url)


def prepare(
    out: Destination,
    source: Source,
    jobs: list[ShardJob],
    settings: dict[str, Any],
    *,
    overwrite: bool,
    say: Callable[[str], None],
) -> Manifest | None:
    """Prepare `out` for the shards of `jobs`. Return None if they must be written, or the manifest if they all exist.

    Shards of an interrupted conversion of the same photographs and settings are kept. `say` is called with a message if
    that conversion has to start over, because photographs were modified. Raises UserError if `out` holds other files,
    or other shards and `overwrite` is False.
    """
    mine = {"source": source.fingerprint, "local_state": source.local_state, "settings": settings}
    run_file = f"{PARTS}/{RUN}"
    run = json.loads(out.read(run_file)) if out.has(run_file) else None
    out.clear_unfinished(PARTS)
    finished = out.has(MANIFEST)
    if finished or run:  # otherwise the folder may contain other data
        out.clear_unfinished()
    if finished:
        if not overwrite or run == mine:  # the latter was killed after it had written the manifest
            there = out.manifest()
            # Finished shards stay valid, whichever release wrote them.
            _refuse_other(out, mine, there.source.fingerprint, there.settings, release=False)
            return there
        _clear(out, mine)
    elif run:
        if not overwrite:
            _refuse_other(out, mine, run["source"], run["settings"], release=True)
            finished_parts = read_parts(out, jobs if run != mine else [])
            done = sum(len(job.rows) for job, part in finished_parts if part)
            if done:
                say(
                    f"{out}: photographs were modified since the conversion stopped; all are converted again, "
                    f"including {done:,} finished ones"
                )
        if run != mine:
            _clear(out, mine)
    elif strange := [name for name in out.names() if name[0] != "."]:
        raise UserError(f"--out {out} holds other files ({strange[0]}); give a new or empty folder")
    out.write(run_file, json.dumps(mine).encode())
    return None


def prepare_append(out: Destination, base: Manifest, mine: dict[str, Any]) -> None:
    """Prepare `out` for new shards next to those in the manifest `base`. `mine` identifies this append.

    Files of another append that was killed are removed, and so are the files that the previous append replaced. Raises
    UserError if another machine has appended to the same bucket in the meantime.
    """
    require_manifest(out, base)
    out.clear_unfinished()
    out.clear_unfinished(PARTS)
    run_file = f"{PARTS}/{RUN}"
    if out.has(run_file) and json.loads(out.read(run_file)) == mine:
        return
    out.remove_folder(PARTS)
    named = {shard.name for shard in base.shards} | base.files.keys() | {base.index.name}
    others = [name for name in out.names() if name not in named]
    out.remove([name for name in others if any(ours.fullmatch(name) for ours in (_LIST, _SHARD))])
    out.write(run_file, json.dumps(mine).encode())


def require_manifest(out: Destination, base: Manifest) -> None:
    """Raise UserError if the manifest in `out` is not `base`. This is needed because buckets have no locks between
    machines."""
    if out.manifest() != base:
        raise UserError(f"{out}: another machine has written there in the meantime; run the same command again")


def _refuse_other(
    out: Destination, mine: dict[str, Any], source: str, settings: dict[str, Any], *, release: bool
) -> None:
    """Raise UserError if existing shards come from other photographs or settings. With `release`, the version counts
    too."""
    settings, ours = {**ADDED, **settings}, {**ADDED, **mine["settings"]}
    differ = ["other photographs"] if source != mine["source"] else []
    differ += [
        f"{name} = {settings.get(name)}, not {ours.get(name)}"
        for name in {**ours, **settings}
        if settings.get(name) != ours.get(name) and name != APPENDED and (release or name != "fasttrain")
    ]
    more = "; --append adds new photographs" if differ == ["other photographs"] and not release else ""
    if differ:
        found = "an unfinished conversion of other data or settings" if release else "other shards"
        raise UserError(f"{out} holds {found} ({'; '.join(differ)}); give --overwrite, or another --out{more}")


def _clear(out: Destination, mine: dict[str, Any]) -> None:
    # If this is killed half-way, run.json still shows that the folder belongs to a conversion and is being cleared.
    """Remove the shards and lists in `out`."""
    out.write(f"{PARTS}/{RUN}", json.dumps({**mine, _CLEARING: True}).encode())
    if out.has(MANIFEST):
        out.remove([MANIFEST])  # first, so that the remaining files don't look like a data set
    out.remove([name for name in out.names() if any(ours.fullmatch(name) for ours in (_LIST, _SHARD, _BETON))])
    out.remove([f"{PARTS}/{name}" for name in out.names(PARTS) if name != RUN])
