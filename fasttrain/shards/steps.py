"""The steps that all kinds of conversion share: check the arguments, lay out the shards, and write them."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fasttrain.errors import UserError
from fasttrain.photos.source import TEST, Source, SourceOptions
from fasttrain.photos.sources import open_source
from fasttrain.photos.together import keep_together
from fasttrain.shards.beton import NO_LABEL, write_betons
from fasttrain.shards.destination import Destination
from fasttrain.shards.extra_labels import extra_labels_file
from fasttrain.shards.format import EXTRA
from fasttrain.shards.keys import make_keys
from fasttrain.shards.layout import Earlier, ShardJob, lay_out, split_files
from fasttrain.shards.parts import Part, read_parts, write_parts
from fasttrain.shards.progress import ConvertProgress, Interrupted, stopping
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings
from fasttrain.stop import StopRequest


def write_beton_files(out: Path, console: Console, stop: StopRequest) -> None:
    """Write FFCV's `.beton` files of the shards in `out`, with a progress bar."""
    shards = ShardSet.open(out)
    if shards.multi_label:
        console.print(
            f"FFCV's label field holds one number, not several classes: it is set to {NO_LABEL}; the classes are in "
            "index.npy"
        )
    message = f"stopped: FFCV's files in {out} are incomplete; run the same command again to resume"
    with ConvertProgress(console, len(shards), 0) as progress, stopping(stop, console, lambda: message):

        def advance(images: int) -> None:
            progress.advance(images)
            if stop.requested:
                raise Interrupted

        write_betons(shards, advance)


def checked_source(
    where: str | Path,
    out: Destination,
    settings: ShardSettings,
    workers: int | None,
    options: SourceOptions,
    least_classes: int = 2,
) -> tuple[int, ShardSettings, Source]:
    """Check the arguments of a conversion, and list its source.

    Return the number of threads, the settings without "auto", and the source. Raises UserError for arguments that don't
    fit each other or the source.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    settings = settings.resolved()
    source = open_source(where, least_classes, options)
    if settings.test_fraction and (source.splits == TEST).any():
        unused = "--test-fraction has no effect: the source has its own test photographs"
        source = replace(source, notes=(*source.notes, unused))
    if source.kind != "table" and _lies_within(out.location, source.root):  # a table lists its photographs
        raise UserError(f"--out {out} is inside --source {source.root}; give a folder outside of it")
    return workers or os.cpu_count() or 1, settings, source


def _lies_within(out: Path | str, source: Path) -> bool:
    """Return whether `out` is in the folder or URL `source`, or the same."""
    if isinstance(out, str):
        return f"{out}/".startswith(f"{source}/")
    return source.resolve() in (out.resolve(), *out.resolve().parents)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Return a context in which Pillow's warnings are not shown.

    They are about odd metadata. Serious problems raise errors.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def lay_out_shards(source: Source, settings: ShardSettings, earlier: Earlier | None = None) -> list[ShardJob]:
    """Return the shards to write for `source`, after the `earlier` ones if there are any; see `lay_out`."""
    return lay_out(
        source,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
        shard_size=settings.shard_size,
        earlier=earlier,
    )


def write_lists(out: Destination, source: Source, jobs: list[ShardJob]) -> None:
    """Write the lists beside the shards: the photographs of each split, and the source's extra labels if it has any."""
    for name, data in split_files(source, jobs).items():
        out.write(name, data)
    if source.extra:
        out.write(EXTRA, extra_labels_file(source))


def group_duplicates(source: Source, workers: int, console: Console, stop: StopRequest) -> Source:
    """Return `source` with its near-duplicates grouped, with a progress bar; see `keep_together`."""
    message = "stopped while looking for near-duplicates; run the same command again to resume"
    with ConvertProgress(console, len(source.paths), 0) as progress, stopping(stop, console, lambda: message):

        def advance(photographs: int) -> None:
            progress.advance(photographs)
            if stop.requested:
                raise Interrupted

        return keep_together(source, workers, advance)


def print_notes(console: Console, source: Source) -> None:
    """Print the notes of `source`, one line each."""
    for note in source.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def write_shards(
    source: Source,
    jobs: list[ShardJob],
    out: Destination,
    settings: ShardSettings,
    workers: int,
    strict: bool,
    console: Console,
    stop: StopRequest,
    keys: list[str] | None = None,
) -> tuple[list[tuple[ShardJob, Part]], int]:
    """Write the shards that are not finished yet, with a progress bar.

    `keys`: the key of each photograph in the shards; by default they are made from the paths. Return every job with
    its record, and the number of photographs read.
    """
    done = {job.name: part for job, part in read_parts(out, jobs) if part}
    if strict:
        for part in done.values():
            part.check_strict(source.root)
    todo = [job for job in jobs if job.name not in done]
    if done:
        console.print(f"resuming in {out}: {len(done):,} of {len(jobs):,} shards are finished")
    total = sum(len(job.rows) for job in jobs)
    left = sum(len(job.rows) for job in todo)

    def message() -> str:
        finished = f"{len(done):,} of {len(jobs):,} shards in {out} are finished"
        return f"stopped: {finished}; run the same command again to resume"

    with ConvertProgress(console, total, total - left) as progress, stopping(stop, console, message):

        def advance() -> None:
            progress.advance()
            if stop.requested:
                raise Interrupted

        for job, part in write_parts(
            todo,
            source,
            keys or make_keys(source.paths),
            out,
            settings,
            workers=workers,
            strict=strict,
            advance=advance,
        ):
            done[job.name] = part
        out.flush()
    return [(job, done[job.name]) for job in jobs], left
