"""The folder that `convert` writes into: whose it is, what lies there already, who else is at work in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fasttrain.config.location import upload_command, url_in_path, user_path
from fasttrain.errors import UserError, mendable, of_os
from fasttrain.files import atomic_write_bytes, clear_temporaries, fsync_folder, make_folder
from fasttrain.photos.source import Source
from fasttrain.shards.format import (
    APPENDED,
    MANIFEST,
    PARTS,
    Manifest,
    read_manifest,
)
from fasttrain.shards.layout import SHARD_NAME, ShardJob
from fasttrain.shards.parts import read_part
from fasttrain.shards.settings import ADDED

_SHARD = re.compile(rf"{SHARD_NAME.pattern}\.(tar|idx)")
_BETON = re.compile(r"(train|val|test)\.beton|beton\.json|\..+\.beton\.[0-9a-f]+\.partial")
RUN = "run.json"
_OUT, _CACHE = "choose another --out", "set FASTTRAIN_CACHE to a folder that can be written"
_CLEARING = "clearing"
_LIST = re.compile(
    r"index(-\d+)?\.npy|(rejected|converted)(-\d+)?\.tsv|(splits|duplicates)(-\d+)?\.csv|extra_labels(-\d+)?\.jsonl"
)


def local_folder(out: str | Path) -> Path:
    """Return `out` as a path. Raises UserError for a URL."""
    if url := url_in_path(out):
        fix = upload_command(url) or "copy it there"
        raise UserError(f"--out {url}: convert into a local folder first (--out shards), then: {fix}")
    return user_path(out)


def prepare(
    out: Path,
    source: Source,
    jobs: list[ShardJob],
    settings: dict[str, Any],
    *,
    overwrite: bool,
    say: Callable[[str], None],
) -> Manifest | None:
    """Makes `out` ready for these shards: None to write them, a manifest where they are all there already.

    `say` is told if an interrupted conversion starts over, as a photograph was touched since. Raises UserError where
    other things lie there, or other shards and not `overwrite`.
    """
    mine = {"source": source.fingerprint, "local_state": source.local_state, "settings": settings}
    run = json.loads((out / PARTS / RUN).read_bytes()) if (out / PARTS / RUN).exists() else None
    clear_temporaries(out / PARTS)
    if (out / MANIFEST).exists() or run:  # else the folder may be somebody else's
        clear_temporaries(out)
    if (out / MANIFEST).exists():
        if not overwrite or run == mine:  # which was killed after the manifest
            there = read_manifest(out)
            # Finished shards stay good whichever release wrote them.
            _refuse_other(out, mine, there.source.fingerprint, there.settings, release=False)
            return there
        _clear(out, mine)
    elif run:
        if not overwrite:
            _refuse_other(out, mine, run["source"], run["settings"], release=True)
            done = sum(len(job.rows) for job in jobs if run != mine and read_part(out, job))
            if done:
                say(f"{out}: photographs were touched since it stopped; {done:,} are converted again, none is kept")
        if run != mine:
            _clear(out, mine)
    elif strange := sorted(path.name for path in out.iterdir() if path.name[0] != "."):
        raise UserError(f"--out {out} holds other files ({strange[0]}); give a new or empty folder")
    make_folder(out / PARTS)
    atomic_write_bytes(out / PARTS / RUN, json.dumps(mine).encode())
    return None


def prepare_append(out: Path, base: Manifest, mine: dict[str, Any]) -> None:
    """Make `out` ready for new shards beside those of the manifest `base`; `mine` tells this append from others.

    What a killed append of others left goes, and what the append before this one replaced.
    """
    clear_temporaries(out)
    clear_temporaries(out / PARTS)
    run = out / PARTS / RUN
    if run.exists() and json.loads(run.read_bytes()) == mine:
        return
    clear_parts(out)
    named = {shard.name for shard in base.shards} | base.files.keys() | {base.index.name}
    for path in sorted(out.iterdir()):
        if path.name not in named and any(ours.fullmatch(path.name) for ours in (_LIST, _SHARD)):
            path.unlink()
    make_folder(out / PARTS)
    atomic_write_bytes(run, json.dumps(mine).encode())


def clear_parts(out: Path) -> None:
    """Removes the records that only an unfinished conversion needs."""
    shutil.rmtree(out / PARTS, ignore_errors=True)


@contextlib.contextmanager
def alone_in(out: Path, *, wait: bool) -> Iterator[None]:
    """Creates `out`, and keeps other conversions out of it. Raises UserError where one is at work, unless `wait`.

    OSErrors that the user can mend (disk full, no permission) come out as UserErrors of one line.
    """
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; give a folder")
        make_folder(out)
        descriptor = os.open(out, os.O_RDONLY)
        try:
            _lock(out, descriptor, wait)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _mendable(out, error, _CACHE if wait else _OUT) from error


def _lock(out: Path, descriptor: int, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise UserError(f"{out}: another fasttrain convert is writing there; wait, or give another --out") from error
    except OSError:
        return  # some network file systems can't lock; atomic writes still keep files whole


def _mendable(out: Path, error: OSError, mend: str) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return of_os(error, out, "make room and run the same command again: it goes on from here")
    return mendable(error, error.filename or out, mend) or error


def _refuse_other(out: Path, mine: dict[str, Any], source: str, settings: dict[str, Any], *, release: bool) -> None:
    settings, ours = {**ADDED, **settings}, {**ADDED, **mine["settings"]}
    differ = ["other photographs"] if source != mine["source"] else []
    differ += [
        f"{name} = {settings.get(name)}, not {ours.get(name)}"
        for name in {**ours, **settings}
        if settings.get(name) != ours.get(name) and name != APPENDED and (release or name != "fasttrain")
    ]
    more = "; --append adds what is new" if differ == ["other photographs"] and not release else ""
    if differ:
        raise UserError(f"{out} holds other shards ({'; '.join(differ)}); give --overwrite, or another --out{more}")


def _clear(out: Path, mine: dict[str, Any]) -> None:
    # Killed half-way, the folder must still say whose it is, and that what is left in it is not of that.
    make_folder(out / PARTS)
    atomic_write_bytes(out / PARTS / RUN, json.dumps({**mine, _CLEARING: True}).encode())
    (out / MANIFEST).unlink(missing_ok=True)
    fsync_folder(out)  # without its manifest, what is left is no data set, however far this gets
    for path in sorted(out.iterdir()):
        if any(ours.fullmatch(path.name) for ours in (_LIST, _SHARD, _BETON)):
            path.unlink()
    for path in sorted((out / PARTS).iterdir()):
        if path.name != RUN:
            path.unlink()
    fsync_folder(out)
    fsync_folder(out / PARTS)
