"""`convert`: write the shards of a data set with several threads.

An interrupted conversion can be resumed, and the same photographs and settings always give the same bytes.
"""

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

_DEFAULTS = ShardSettings()
_DEFAULT_OPTIONS = SourceOptions()


@dataclass(frozen=True)
class PartResult:
    """The result of `convert_part`.

    `folder` is the part's folder or URL, `part` its number and the number of parts ("2/4"), `photos` the number of
    photographs read by this call, and `seconds` the time that it took.
    """

    folder: Path | str
    part: str
    photos: int
    seconds: float


@dataclass(frozen=True)
class ConvertResult:
    """The result of `convert`.

    `out` is the folder or URL of the shards, and `manifest` is their manifest. `seconds` and `photos` are the time and
    the number of photographs of this call. `already` is True if the shards existed before, so that no photograph was
    read.
    """

    out: Path | str
    manifest: Manifest = field(repr=False)
    seconds: float
    photos: int
    already: bool

    @property
    def photos_per_second(self) -> float:
        """Return the photographs per second of this call."""
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
    options: SourceOptions = _DEFAULT_OPTIONS,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    append: bool = False,
    progress: bool = True,
) -> ConvertResult:
    """Write the shards of a data set and return what was written.

    - `source`: "food101", "sample", or the path or URL of photographs; see `open_source`.
    - `out`: a folder, or a URL that fsspec can write, such as "s3://bucket/shards". The default is shards/NAME, with
      the last part of `source` as NAME.
    - `format`: "tar", or "tar,beton" to also write FFCV's files with the same JPEG bytes.
    - `val_fraction`, `test_fraction`: the share of each class's training photographs that is drawn for validation and
      for testing, each in [0, 1). A share has no effect if the source already has photographs for that split.
    - `seed`: seed of this draw and of the order of the photographs, in [0, 2**63).
    - `max_size`, `quality`, `optimize`, `color`, `accept_damaged`: how photographs are stored; see `normalize`.
    - `cut`: where the lossless rewrite puts restart markers: after every "mcu", after every "row" of MCUs, or "none".
      "auto" is "mcu" if the C++ module is installed, otherwise "none".
    - `shard_size`: the number of photographs in a shard.
    - `raw`: store decoded pixels (`KEY.npy`, uint8 RGB [height, width, 3], see `decode`) instead of JPEGs. This needs
      `max_size`; `quality`, `cut` and `optimize` have no effect.
    - `options`: how the source is read; see `SourceOptions`.
    - `workers`: the number of threads, by default one per core.
    - `strict`: raise an error for a broken photograph instead of leaving it out.
    - `overwrite`: replace other shards in `out`.
    - `append`: add the photographs that the shards in `out` lack; see `shards.append`.
    - `progress`: show progress.

    After an interruption (Ctrl-C, SIGTERM, SIGKILL, a full disk), the same call resumes after the last finished shard.
    The bytes depend neither on `workers` nor on interruptions. Raises UserError for problems that the user can fix,
    KeyboardInterrupt after Ctrl-C, and Stopped after SIGTERM.
    """
    formats = parse_formats(format, raw=raw)
    console = make_console(stderr=True, quiet=not progress)
    place = destination(default_out(str(source)) if out is None else out)
    if not isinstance(place, Folder) and "beton" in formats:
        raise UserError(
            f"--format {format} works only with a local --out; give a folder, then copy it: --out {out} is a URL"
        )
    if append and overwrite:
        raise UserError("--append and --overwrite can't be used together; leave out one of them")
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
    options: SourceOptions = _DEFAULT_OPTIONS,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PartResult:
    """Convert one of several parts of a data set on this machine; `merge` joins the parts.

    `part` is "i/n": of all shards, this call writes every n-th one, starting with the i-th (counted from 1), into a
    folder below `out`. With "auto", i and n come from the Slurm task, the Kubernetes pod or the torchrun rank. Every
    machine must see the same `source`. The merged data set has the same bytes as a conversion on one machine.
    Interruptions and errors are handled as in `convert`.
    """
    number, count = parse_part(part)
    console = make_console(stderr=True, quiet=not progress)
    place = destination(out)
    refuse_finished(place)
    folder = place.below(part_name(number, count))
    start = time.monotonic()
    workers, settings, opened = _checked(source, folder, settings, workers, options)
    with _quiet_pillow(), folder.exclusive(wait=False), StopRequest("stopping after the current shards") as stop:
        if options.keep_duplicates_together:
            opened = _together(opened, workers, console, stop)
        jobs = _jobs(opened, settings)
        recorded = {**settings.recorded(), **opened.settings}
        prepare(folder, opened, jobs, recorded, overwrite=False, say=console.print)
        _say_notes(console, opened)
        write_summary(folder, opened.summary(), jobs)
        if number == 1:  # all parts have the same lists, and `merge` uses those of the first
            _write_lists(folder, opened, jobs)
        _, photos = _write(opened, jobs[number - 1 :: count], folder, settings, workers, strict, console, stop)
    return PartResult(folder.location, f"{number}/{count}", photos, time.monotonic() - start)


def ensure_shards(
    data: str | Path, settings: ShardSettings = _DEFAULTS, known: Sequence[str] | None = None
) -> str | Path:
    """Return a path or URL with shards: `data` itself, or the cached shards of the photographs in `data`.

    A URL is returned unchanged. If `data` is a folder with exactly one data set in it, such as shards/food in `shards`,
    that data set is used. If `data` holds photographs, they are converted into the cache. The cached shards are reused
    until a photograph is added, removed or changed (see `Source.local_state`), or until `settings` differ.

    `known` lists a model's classes. If it is given, the photographs may belong to only some of these classes, even to a
    single one. Raises UserError if `data` holds neither shards nor photographs, if it holds several data sets, or if a
    class is not `known`.
    """
    if is_url(data):
        return data
    data = user_path(data_set_in(data))
    if not data.exists() and (url := url_in_path(data)):
        raise UserError(f"{data} does not exist; did you mean '{url}'? Give a string, because a Path removes a slash")
    if (data / MANIFEST).exists():
        return data
    if data.is_file():
        raise UserError(f"{data} is a file; make shards of it: fasttrain convert {data} --out shards")
    if not data.is_dir() or (data / PARTS).exists():
        read_manifest(data)  # raises an error that explains what is wrong
    least_classes = 2 if known is None else 1
    try:
        source = open_source(data, least_classes)
    except UserError as error:
        raise UserError(f"{data} holds neither shards nor usable photographs: {error}") from error
    if known is not None:
        require_known(source.classes, known, data)
    default = asdict(_DEFAULTS)
    changed = [f"-{name}-{value}" for name, value in asdict(settings).items() if value != default[name]]
    out = cache_root() / "shards" / f"{source.name}-{source.local_state.removeprefix('sha256:')[:16]}{''.join(changed)}"
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
    options: SourceOptions = _DEFAULT_OPTIONS,
    least_classes: int = 2,
    wait: bool = False,
) -> ConvertResult:
    """Convert the source at `where` into `out`, or return the existing shards; see `convert`.

    `least_classes` is the smallest number of classes that the source may have. With `wait`, wait for another process
    that converts into the same place instead of raising an error.
    """
    start = time.monotonic()
    workers, settings, source = _checked(where, out, settings, workers, options, least_classes)
    with out.exclusive(wait=wait), _quiet_pillow(), StopRequest("stopping after the current shards") as stop:
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
            raise UserError(
                f"{out} lacks {manifest.counts['broken']:,} broken photographs, listed in rejected.tsv; fix or remove "
                "them, or leave out --strict"
            )
        else:
            console.print(
                f"{out} already holds these shards (the photographs have the same names and sizes): nothing to do; "
                "--overwrite converts them again"
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
    """Add the photographs that the shards in `out` lack; see `convert`."""
    start = time.monotonic()
    out.manifest()  # raises if there is none
    if out.has(RECORD) and not beton:
        raise UserError(
            f"{out} also holds FFCV's .beton files; give --format tar,beton to add the new photographs to them"
        )
    workers, settings, source = _checked(where, out, settings, workers, options, least_classes=1)
    with out.exclusive(wait=False), _quiet_pillow(), StopRequest("stopping after the current shards") as stop:
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
            console.print(f"{out} already holds photographs with all of these names: nothing to add")
        seconds = time.monotonic() - start
        if beton:
            _write_betons(Path(out.location), console, stop)
        out.remove_folder(PARTS)
    return ConvertResult(out.location, manifest, seconds, photos, not jobs)


def _write_betons(out: Path, console: Console, stop: StopRequest) -> None:
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


def _checked(
    where: str | Path,
    out: Destination,
    settings: ShardSettings,
    workers: int | None,
    options: SourceOptions,
    least_classes: int = 2,
) -> tuple[int, ShardSettings, Source]:
    """Check the arguments of a conversion and list its source. Return the number of threads, the settings without
    "auto", and the source."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    settings = settings.resolved()
    source = open_source(where, least_classes, options)
    if settings.test_fraction and (source.splits == TEST).any():
        unused = "--test-fraction has no effect: the source has its own test photographs"
        source = replace(source, notes=(*source.notes, unused))
    if source.kind != "table" and _lies_within(out.location, source.root):  # a table names its photographs one by one
        raise UserError(f"--out {out} is inside --source {source.root}; give a folder outside of it")
    return workers or os.cpu_count() or 1, settings, source


def _lies_within(out: Path | str, source: Path) -> bool:
    """Return whether `out` is in the folder or URL `source`, or the same."""
    if isinstance(out, str):
        return f"{out}/".startswith(f"{source}/")
    return source.resolve() in (out.resolve(), *out.resolve().parents)


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    # They are about odd metadata and would clutter the progress. Serious problems raise errors.
    """Hide Pillow's warnings."""
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
    """Return `source` with its near-duplicates grouped, with a progress bar; see `keep_together`."""
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
    """Write the shards that are not finished yet. Return every job with its record, and the number of photographs
    read."""
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
