"""`convert`: turn photographs into shards, in parallel, resumable, with the same bytes each time."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from fasttrain.config.location import cache_root, is_url, url_in_path, user_path
from fasttrain.errors import UserError
from fasttrain.photos.source import TEST, UNDECIDED, Source, SourceOptions
from fasttrain.photos.sources import open_source, require_known
from fasttrain.photos.together import keep_together
from fasttrain.shards.append import plan_addition, write_addition
from fasttrain.shards.assemble import assemble
from fasttrain.shards.beton import NO_LABEL, RECORD, write_betons
from fasttrain.shards.destination import Destination, Folder
from fasttrain.shards.extra_labels import extra_labels_file
from fasttrain.shards.find import data_set_in, default_out
from fasttrain.shards.format import EXTRA, MANIFEST, PARTS, Manifest, read_manifest
from fasttrain.shards.keys import make_keys
from fasttrain.shards.layout import Earlier, ShardJob, lay_out, split_files
from fasttrain.shards.merge import part_name, refuse_finished, write_summary
from fasttrain.shards.part_number import parse_part
from fasttrain.shards.parts import Part, read_parts, write_parts
from fasttrain.shards.progress import ConvertProgress, Interrupted, stopping
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ShardSettings, parse_formats
from fasttrain.shards.workplace import destination, prepare, prepare_append
from fasttrain.stop import StopRequest
from fasttrain.terminal import make_console

_USUAL = ShardSettings()
_AS_IS = SourceOptions()


@dataclass(frozen=True)
class PartResult:
    """The result of converting one part: its folder or URL, its numbers ("2/4"), photographs read, and
    seconds taken."""

    folder: Path | str
    part: str
    photos: int
    seconds: float


@dataclass(frozen=True)
class ConvertResult:
    """The result of a conversion: the shards' folder or URL, their manifest, and this call's seconds and photographs.

    `already`: the shards existed, so no photograph was read.
    """

    out: Path | str
    manifest: Manifest = field(repr=False)
    seconds: float
    photos: int
    already: bool

    @property
    def photos_per_second(self) -> float:
        return self.photos / max(self.seconds, 1e-9)


def convert(
    source: str | Path = "food101",
    out: str | Path | None = None,
    *,
    format: str = "tar",
    val_fraction: float = ShardSettings.val_fraction,
    test_fraction: float = ShardSettings.test_fraction,
    seed: int = ShardSettings.seed,
    max_size: int | None = ShardSettings.max_size,
    quality: int = ShardSettings.quality,
    cut: str = ShardSettings.cut,
    optimize: bool = ShardSettings.optimize,
    shard_size: int = ShardSettings.shard_size,
    raw: bool = ShardSettings.raw,
    color: str = ShardSettings.color,
    accept_damaged: float = ShardSettings.accept_damaged,
    options: SourceOptions = _AS_IS,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    append: bool = False,
    progress: bool = True,
) -> ConvertResult:
    """Write the shards of `source` ("food101", "sample", or a path: see `open_source`) into `out`.

    `out`: a folder, or a URL that fsspec can write, such as "s3://bucket/shards"; by default shards/NAME, after the
    last part of `source`.

    `format`: "tar", or "tar,beton" to also write FFCV's files, with the same JPEG bytes. `val_fraction`: share of each
    class's training photographs to validate with, in [0, 1); unused if the source has its own validation photographs.
    `test_fraction`: the same for testing. `seed`: of this choice and of the order, in [0, 2**63). `max_size`,
    `quality`, `optimize`: see `normalize`. `cut`: "mcu", "row" or "none", the interval of the lossless rewrite's
    restart markers; "auto" is "mcu" with the C++ module and "none" without it. `shard_size`: photographs per shard.
    `raw`: store decoded pixels (`KEY.npy`, uint8 RGB [height, width, 3], see `decode`) instead of JPEGs; this needs
    max_size, and quality, cut and optimize have no effect. `color`: "auto", "keep" or "srgb", see `normalize`.
    `accept_damaged`: the share of a damaged JPEG, in [0, 1], that must be intact for it to be stored. `options`: how
    the source is read, see `SourceOptions`. `workers`: threads, by default one per core. `strict`: raise an error for
    a broken photograph instead of leaving it out. `overwrite`: replace other shards in `out`. `append`: add the
    photographs that the shards in `out` don't have yet, see `shards.append`. `progress`: show progress.

    After an interruption (Ctrl-C, SIGTERM, SIGKILL, a full disk), the same call resumes after the last finished shard.
    The bytes depend neither on `workers` nor on interruptions. Raises UserError for what the user can fix,
    KeyboardInterrupt, and Stopped after SIGTERM.
    """
    formats = parse_formats(format, raw=raw)
    console = make_console(stderr=True, quiet=not progress)
    place = destination(default_out(str(source)) if out is None else out)
    if not isinstance(place, Folder) and "beton" in formats:
        raise UserError(
            f"--format {format} works only with a local --out; give a folder, then copy it: --out {out} is a URL"
        )
    if append and overwrite:
        raise UserError("--append and --overwrite exclude each other; leave out one of them")
    run = _append if append else functools.partial(_convert, overwrite=overwrite)
    return run(
        source,
        place,
        ShardSettings(
            val_fraction=val_fraction,
            seed=seed,
            max_size=max_size,
            quality=quality,
            cut=cut,
            optimize=optimize,
            shard_size=shard_size,
            raw=raw,
            color=color,
            test_fraction=test_fraction,
            accept_damaged=accept_damaged,
        ),
        options=options,
        workers=workers,
        strict=strict,
        beton="beton" in formats,
        console=console,
    )


def convert_part(
    source: str | Path,
    out: str | Path,
    part: str,
    settings: ShardSettings,
    *,
    options: SourceOptions = _AS_IS,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PartResult:
    """Write part "i/n", from 1, of a conversion: every n-th shard from the i-th on, into a folder below `out`.

    With part "auto" the numbers come from the Slurm task, Kubernetes pod or torchrun rank. Each of n machines that see
    the same `source` writes one part. Then `merge` joins them into one data set with the same bytes as a conversion on
    one machine. Interruptions and errors are those of `convert`.
    """
    number, count = parse_part(part)
    console = make_console(stderr=True, quiet=not progress)
    whole = destination(out)
    refuse_finished(whole)
    folder = whole.below(part_name(number, count))
    start = time.monotonic()
    workers, settings, opened = _checked(source, folder, settings, workers, options)
    with _quiet_pillow(), folder.alone(wait=False), StopRequest("stopping after the shards in hand") as stop:
        if options.keep_duplicates_together:
            opened = _together(opened, workers, console, stop)
        jobs = _jobs(opened, settings)
        recorded = {**settings.recorded(), **opened.settings}
        prepare(folder, opened, jobs, recorded, overwrite=False, say=console.print)
        _say_notes(console, opened)
        write_summary(folder, opened.summary(), jobs)
        if number == 1:  # `merge` uses the lists of the first part, as all parts have the same
            _write_lists(folder, opened, jobs)
        _, photos = _write(opened, jobs[number - 1 :: count], folder, settings, workers, strict, console, stop)
    return PartResult(folder.location, f"{number}/{count}", photos, time.monotonic() - start)


def ensure_shards(data: str | Path, settings: ShardSettings = _USUAL, known: Sequence[str] | None = None) -> str | Path:
    """Return `data` if it holds shards or is a URL. If it holds photographs, return their shards in the cache.

    If `data` is a folder with one data set in it, such as shards/food for `shards`, that one is used.

    Shards in the cache are made once, and again if a photograph was added, removed or changed: see
    `Source.local_state`. `settings` apply to photographs: other settings make other shards. `known`: a model's classes,
    in which case the photographs may belong to only some of them, even one. Raises UserError if `data` holds neither,
    several data sets, or other classes.
    """
    if is_url(data):
        return data
    data = user_path(data_set_in(data))
    if not data.exists() and (url := url_in_path(data)):
        raise UserError(f"{data} does not exist; did you mean '{url}'? A Path takes a slash from a URL: give a string")
    if (data / MANIFEST).exists():
        return data
    if data.is_file():
        raise UserError(f"{data} is a file; make shards of it: fasttrain convert --source {data} --out shards")
    if not data.is_dir() or (data / PARTS).exists():
        read_manifest(data)  # its error says what is wrong
    least_classes = 2 if known is None else 1
    try:
        source = open_source(data, least_classes)
    except UserError as error:
        raise UserError(f"{data} holds neither shards nor usable photographs: {error}") from error
    if known is not None:
        require_known(source.classes, known, data)
    unusual = [f"-{name}-{value}" for name, value in asdict(settings).items() if value != getattr(_USUAL, name)]
    out = cache_root() / "shards" / f"{source.name}-{source.local_state.removeprefix('sha256:')[:16]}{''.join(unusual)}"
    if not (out / MANIFEST).exists():
        console = make_console(stderr=True)
        console.print(f"{data} holds photographs: converting them once, into {out}")
        _convert(data, Folder(out), settings, least_classes=least_classes, wait=True, console=console)
    return out


def _convert(
    where: str | Path,
    out: Destination,
    settings: ShardSettings,
    *,
    console: Console,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    beton: bool = False,
    options: SourceOptions = _AS_IS,
    least_classes: int = 2,
    wait: bool = False,
) -> ConvertResult:
    start = time.monotonic()
    workers, settings, source = _checked(where, out, settings, workers, options, least_classes)
    with out.alone(wait=wait), _quiet_pillow(), StopRequest("stopping after the shards in hand") as stop:
        if options.keep_duplicates_together:
            source = _together(source, workers, console, stop)
        jobs = _jobs(source, settings)
        recorded = {**settings.recorded(), **source.settings}
        manifest = prepare(out, source, jobs, recorded, overwrite=overwrite, say=console.print)
        already, photos = manifest is not None, 0
        if manifest is None:
            _say_notes(console, source)
            parts, photos = _write(source, jobs, out, settings, workers, strict, console, stop)
            _write_lists(out, source, jobs)
            manifest = assemble(out, source.summary(), parts, recorded)
        elif strict and manifest.counts["broken"]:
            raise UserError(f"{out} leaves out {manifest.counts['broken']:,} broken photographs: see rejected.tsv")
        else:
            console.print(
                f"{out} already holds these shards, by the photographs' names and sizes: nothing to do; --overwrite "
                "converts them again"
            )
        seconds = time.monotonic() - start
        if beton:
            _write_betons(Path(out.location), console, stop)
        out.remove_folder(PARTS)
    return ConvertResult(out.location, manifest, seconds, photos, already)


def _append(
    where: str | Path,
    out: Destination,
    settings: ShardSettings,
    *,
    console: Console,
    workers: int | None,
    strict: bool,
    beton: bool,
    options: SourceOptions,
) -> ConvertResult:
    start = time.monotonic()
    out.manifest()  # raises if there is none
    if out.has(RECORD) and not beton:
        raise UserError(
            f"{out} also holds FFCV's files: give --format tar,beton, so that they include the new photographs"
        )
    workers, settings, source = _checked(where, out, settings, workers, options, least_classes=1)
    with out.alone(wait=False), _quiet_pillow(), StopRequest("stopping after the shards in hand") as stop:
        addition = plan_addition(out, source, settings, strict=strict)
        source, held, photos = addition.source, addition.earlier.held, 0
        if options.keep_duplicates_together:
            drawn = replace(source, splits=np.where(held == UNDECIDED, source.splits, held))
            source = replace(_together(drawn, workers, console, stop), splits=source.splits)
            addition = replace(addition, source=source)
        jobs = _jobs(source, settings, addition.earlier)
        _say_notes(console, replace(source, notes=(*source.notes, *addition.notes())))
        if jobs:
            recorded = {**settings.recorded(), **source.settings}
            mine = {"source": source.fingerprint, "local_state": source.local_state, "settings": recorded}
            prepare_append(out, addition.base, {**mine, "append": addition.fingerprint})
            parts, photos = _write(source, jobs, out, settings, workers, strict, console, stop, addition.keys)
            manifest = write_addition(out, addition, parts, recorded)
        else:
            manifest = addition.base
            console.print(f"{out} already holds all of these photographs, by their names: nothing to add")
        seconds = time.monotonic() - start
        if beton:
            _write_betons(Path(out.location), console, stop)
        out.remove_folder(PARTS)
    return ConvertResult(out.location, manifest, seconds, photos, not jobs)


def _write_betons(out: Path, console: Console, stop: StopRequest) -> None:
    shards = ShardSet.open(out)
    if shards.multi_label:
        console.print(
            f"FFCV's label field holds one number, not a set: it is set to {NO_LABEL}; the sets are in index.npy"
        )
    message = f"stopped: FFCV's files in {out} are incomplete; run the same command again to resume"
    with ConvertProgress(console, len(shards), 0) as progress, stopping(stop, console, lambda: message):

        def advance(images: int) -> None:
            progress.advance(images)
            if stop.requested:
                raise Interrupted

        write_betons(shards, advance)


def _checked(
    where: str | Path,
    out: Destination,
    settings: ShardSettings,
    workers: int | None,
    options: SourceOptions,
    least_classes: int = 2,
) -> tuple[int, ShardSettings, Source]:
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    settings = settings.resolved()
    source = open_source(where, least_classes, options)
    if settings.test_fraction and (source.splits == TEST).any():
        unused = "--test-fraction isn't used: the source has its own test photographs"
        source = replace(source, notes=(*source.notes, unused))
    if source.kind != "table" and _lies_within(out.location, source.root):  # a table names its photographs one by one
        raise UserError(f"--out {out} is inside --source {source.root}; give a folder outside of it")
    return workers or os.cpu_count() or 1, settings, source


def _lies_within(out: Path | str, source: Path) -> bool:
    if isinstance(out, str):
        return f"{out}/".startswith(f"{source}/")
    return source.resolve() in (out.resolve(), *out.resolve().parents)


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    # Pillow warns about odd metadata. Serious problems raise, and the other warnings would clutter the progress.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _jobs(source: Source, settings: ShardSettings, earlier: Earlier | None = None) -> list[ShardJob]:
    return lay_out(
        source,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
        shard_size=settings.shard_size,
        earlier=earlier,
    )


def _write_lists(out: Destination, source: Source, jobs: list[ShardJob]) -> None:
    for name, data in split_files(source, jobs).items():
        out.write(name, data)
    if source.extra:
        out.write(EXTRA, extra_labels_file(source))


def _together(source: Source, workers: int, console: Console, stop: StopRequest) -> Source:
    message = "stopped while looking for near-duplicates; run the same command again to resume"
    with ConvertProgress(console, len(source.paths), 0) as progress, stopping(stop, console, lambda: message):

        def advance(photographs: int) -> None:
            progress.advance(photographs)
            if stop.requested:
                raise Interrupted

        return keep_together(source, workers, advance)


def _say_notes(console: Console, source: Source) -> None:
    for note in source.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _write(
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
        out.settle()
    return [(job, done[job.name]) for job in jobs], left
