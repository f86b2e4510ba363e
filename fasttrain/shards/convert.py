"""`convert`: write the shards of a data set with several threads.

An interrupted conversion can be resumed, and the same photographs and settings always give the same bytes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from fasttrain.config.location import cache_root, is_url, url_in_path, user_path
from fasttrain.errors import UserError
from fasttrain.photos.source import UNDECIDED, SourceOptions
from fasttrain.photos.sources import open_source, require_known
from fasttrain.shards.append import plan_addition, write_addition
from fasttrain.shards.assemble import assemble
from fasttrain.shards.beton import RECORD
from fasttrain.shards.destination import Destination, Folder
from fasttrain.shards.find import data_set_in, default_out
from fasttrain.shards.format import MANIFEST, PARTS, Manifest, read_manifest
from fasttrain.shards.merge import part_name, refuse_finished, write_summary
from fasttrain.shards.part_number import parse_part
from fasttrain.shards.settings import ShardSettings, parse_formats
from fasttrain.shards.steps import (
    checked_source,
    group_duplicates,
    lay_out_shards,
    print_notes,
    quiet_pillow,
    write_beton_files,
    write_lists,
    write_shards,
)
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
    source: str | Path,
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
            f"--out {out}: --format {format} can't be written to a URL; give a local folder, and copy it there"
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
    workers, settings, opened = checked_source(source, folder, settings, workers, options)
    with quiet_pillow(), folder.exclusive(wait=False), StopRequest("stopping after the current shards") as stop:
        if options.keep_duplicates_together:
            opened = group_duplicates(opened, workers, console, stop)
        jobs = lay_out_shards(opened, settings)
        recorded = {**settings.recorded(), **opened.settings}
        prepare(folder, opened, jobs, recorded, overwrite=False, say=console.print)
        print_notes(console, opened)
        write_summary(folder, opened.summary(), jobs)
        if number == 1:  # all parts have the same lists, and `merge` uses those of the first
            write_lists(folder, opened, jobs)
        _, photos = write_shards(opened, jobs[number - 1 :: count], folder, settings, workers, strict, console, stop)
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
    workers, settings, source = checked_source(where, out, settings, workers, options, least_classes)
    with out.exclusive(wait=wait), quiet_pillow(), StopRequest("stopping after the current shards") as stop:
        if options.keep_duplicates_together:
            source = group_duplicates(source, workers, console, stop)
        jobs = lay_out_shards(source, settings)
        recorded = {**settings.recorded(), **source.settings}
        manifest = prepare(out, source, jobs, recorded, overwrite=overwrite, say=console.print)
        already, photos = manifest is not None, 0
        if manifest is None:
            print_notes(console, source)
            parts, photos = write_shards(source, jobs, out, settings, workers, strict, console, stop)
            write_lists(out, source, jobs)
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
            write_beton_files(Path(out.location), console, stop)
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
    workers, settings, source = checked_source(where, out, settings, workers, options, least_classes=1)
    with out.exclusive(wait=False), quiet_pillow(), StopRequest("stopping after the current shards") as stop:
        addition = plan_addition(out, source, settings, strict=strict)
        source, held, photos = addition.source, addition.earlier.held, 0
        if options.keep_duplicates_together:
            drawn = replace(source, splits=np.where(held == UNDECIDED, source.splits, held))
            source = replace(group_duplicates(drawn, workers, console, stop), splits=source.splits)
            addition = replace(addition, source=source)
        jobs = lay_out_shards(source, settings, addition.earlier)
        print_notes(console, replace(source, notes=(*source.notes, *addition.notes())))
        if jobs:
            recorded = {**settings.recorded(), **source.settings}
            mine = {"source": source.fingerprint, "local_state": source.local_state, "settings": recorded}
            prepare_append(out, addition.base, {**mine, "append": addition.fingerprint})
            parts, photos = write_shards(source, jobs, out, settings, workers, strict, console, stop, addition.keys)
            manifest = write_addition(out, addition, parts, recorded)
        else:
            manifest = addition.base
            console.print(f"{out} already holds photographs with all of these names: nothing to add")
        seconds = time.monotonic() - start
        if beton:
            write_beton_files(Path(out.location), console, stop)
        out.remove_folder(PARTS)
    return ConvertResult(out.location, manifest, seconds, photos, not jobs)
