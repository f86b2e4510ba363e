"""The folder that `convert` writes into: whose it is, what lies there already, who else is at work in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fasttrain.errors import UserError
from fasttrain.photos.sources import Source
from fasttrain.shards.atomic import atomic_write_bytes
from fasttrain.shards.format import INDEX, MANIFEST, PARTS, REJECTED, Manifest, read_manifest
from fasttrain.shards.settings import ADDED

_SHARD = re.compile(r"(train|val|test)-\d{5}\.(tar|idx)")
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
RUN = "run.json"


def prepare(out: Path, source: Source, settings: dict[str, Any], *, overwrite: bool) -> Manifest | None:
    """Makes `out` ready for these shards: None to write them, a manifest where they are all there already.

    Raises UserError where other things lie there, or other shards and not `overwrite`.
    """
    mine = {"source": source.fingerprint, "settings": settings}
    if (out / MANIFEST).exists():
        if not overwrite:
            there = read_manifest(out)
            # Finished shards stay good whichever release wrote them.
            _refuse_other(out, mine, there.source.fingerprint, there.settings, release=False)
            return there
        _clear(out)
    elif (out / PARTS / RUN).exists():
        there_run = json.loads((out / PARTS / RUN).read_bytes())
        if not overwrite:
            _refuse_other(out, mine, there_run["source"], there_run["settings"], release=True)
        elif there_run != mine:
            _clear(out)
    elif strange := sorted(path.name for path in out.iterdir() if path.name[0] != "."):
        raise UserError(f"--out {out} holds other files ({strange[0]}); give a new or empty folder")
    for path in out.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()
    (out / PARTS).mkdir(exist_ok=True)
    atomic_write_bytes(out / PARTS / RUN, json.dumps(mine).encode())
    return None


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
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
        try:
            _lock(out, descriptor, wait)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _mendable(out, error) from error


def _lock(out: Path, descriptor: int, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise UserError(f"{out}: another fasttrain convert is writing there; wait, or give another --out") from error
    except OSError:
        return  # some network file systems can't lock; atomic writes still keep files whole


def _mendable(out: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{out}: the disk is full; make room and run the same command again: it goes on from here")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{error.filename or out}: can't be written ({error.strerror}); give another --out")
    return error


def _refuse_other(out: Path, mine: dict[str, Any], source: str, settings: dict[str, Any], *, release: bool) -> None:
    settings = {**ADDED, **settings}
    differ = ["other photographs"] if source != mine["source"] else []
    differ += [
        f"{name} = {settings.get(name)}, not {value}"
        for name, value in mine["settings"].items()
        if settings.get(name) != value and (release or name != "fasttrain")
    ]
    if differ:
        raise UserError(f"{out} holds other shards ({'; '.join(differ)}); give --overwrite, or another --out")


def _clear(out: Path) -> None:
    # The manifest first: without it, what is left is no data set, however far this gets.
    (out / MANIFEST).unlink(missing_ok=True)
    for path in sorted(out.iterdir()):
        if _SHARD.fullmatch(path.name) or path.name in (INDEX, REJECTED):
            path.unlink()
    clear_parts(out)
