"""The commands `fasttrain convert` and `fasttrain merge`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fasttrain.photos.source import SourceOptions
    from fasttrain.shards.convert import ConvertResult
    from fasttrain.shards.format import Manifest

_BROKEN_SHOWN = 10
_MANY = 5  # files with the same reason are counted, not listed one by one


def convert(
    photographs: Annotated[
        str | None,
        typer.Argument(
            help="the photographs: a folder with one subfolder per class, a zip or tar file of such a folder, a table "
            "of paths and labels (.csv, .tsv, .jsonl, .parquet, .txt), WebDataset tars, FFCV .beton files, TFRecords, "
            "or a Hugging Face data set (hf://OWNER/NAME, a folder saved by `datasets`, Parquet files); a folder or "
            "table may be a URL (s3://bucket/photographs); or food101 (downloads Food-101) or sample (draws a small "
            "data set)",
            metavar="[SOURCE]",
            show_default=False,
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="the same as the argument SOURCE")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="where to write the shards: a folder, or a URL (s3://bucket/shards) "
            "\\[default: shards/NAME, with the name of the source]",
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="tar, or tar,beton to write FFCV's .beton files, too")] = "tar",
    val_fraction: Annotated[
        float, typer.Option(help="share of each class's training photographs to use for validation, 0 to 1")
    ] = 0.2,
    test_fraction: Annotated[
        float, typer.Option(help="share of each class's training photographs to use for testing, 0 to 1")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="seed of the random split and of the order of the photographs")] = 0,
    max_size: Annotated[int | None, typer.Option(help="shrink photographs whose longest side exceeds this, px")] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality of photographs that must be re-encoded")] = 95,
    cut: Annotated[
        str,
        typer.Option(
            help="rewrite JPEGs without loss so that crops decode fast: mcu, row, none, or auto (mcu if the C++ module "
            "is installed)"
        ),
    ] = "auto",
    optimize: Annotated[
        bool, typer.Option(help="compute Huffman tables for each JPEG, which makes the files smaller")
    ] = True,
    shard_size: Annotated[int, typer.Option(help="number of photographs per shard")] = 1000,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="store decoded pixels instead of JPEGs: fastest to read, but far larger; needs --max-size"
        ),
    ] = False,
    color: Annotated[
        str,
        typer.Option(
            help="photographs with an ICC colour profile: srgb converts them to sRGB, keep doesn't, auto converts "
            "those whose colours would change much"
        ),
    ] = "auto",
    accept_damaged: Annotated[
        float, typer.Option(help="store a damaged JPEG if at least this share of it is intact, 0 to 1")
    ] = 0.98,
    classes: Annotated[
        str | None,
        typer.Option(help="if class folders contain folders, which of them are the classes: top, leaf or path"),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="keep the photographs of a group in one split; the group is a table's column, or what a regular "
            "expression finds in each path"
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="a table of paths and splits that fixes the splits, such as splits.csv of earlier shards"),
    ] = None,
    relabel: Annotated[
        Path | None,
        typer.Option(help='a table of paths and new labels; photographs with the new label "drop" are left out'),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="the folder that a table's paths are relative to; default: the table's folder")
    ] = None,
    path_column: Annotated[
        str | None, typer.Option(help="name of a table's column of paths; default: recognized by common names")
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="name of a table's column of labels, or of a label file in other formats; default: recognized by "
            "common names"
        ),
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(help="name of a table's column of splits; default: recognized by common names")
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="a file with the names of the classes, one per line, if the labels are numbers")
    ] = None,
    multi_label: Annotated[
        bool | None,
        typer.Option(
            "--multi-label/--no-multi-label",
            help="whether a table's photographs can have several classes: as a list, as names separated by | ; , or "
            "spaces, in several rows, or with a column of 0 and 1 for each class; default: found out from its cells",
        ),
    ] = None,
    keep_duplicates_together: Annotated[
        bool,
        typer.Option("--keep-duplicates-together", help="find near-duplicates first, and keep them in one split"),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="number of threads; default: one per core")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="stop with an error at a broken photograph instead of leaving it out")
    ] = False,
    skip_empty_classes: Annotated[
        bool,
        typer.Option("--skip-empty-classes", help="leave out classes without a single photograph instead of stopping"),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="convert only a part, to share the work among machines: 2/4 is the second of four parts, or auto "
            "takes the numbers from Slurm, Kubernetes or torchrun; join the parts with `fasttrain merge`"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace different shards in --out")] = False,
    append: Annotated[
        bool, typer.Option("--append", help="add only the photographs that the shards in --out don't have yet")
    ] = False,
) -> None:
    """Converts photographs into shards, the input of training. If it is stopped, the same command resumes it."""

    from fasttrain.errors import UserError
    from fasttrain.photos.source import SourceOptions
    from fasttrain.shards.convert import convert as run
    from fasttrain.shards.find import default_out
    from fasttrain.terminal import make_console

    if photographs is not None and source is not None:
        raise UserError(f"{photographs} and --source {source}: two sources were given; give only one")
    source = photographs or source
    if not source:
        raise UserError("no photographs to convert; give a folder, an archive, a table, a URL, food101 or sample")
    out = default_out(source) if out is None else out
    console = make_console()
    settings: dict[str, Any] = {
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
        "max_size": max_size,
        "quality": quality,
        "cut": cut,
        "optimize": optimize,
        "shard_size": shard_size,
        "raw": raw,
        "color": color,
        "accept_damaged": accept_damaged,
    }
    options = SourceOptions(
        classes=classes,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        class_names=class_names,
        root=root,
        group_by=group_by,
        splits=splits,
        relabel=relabel,
        multi_label=multi_label,
        skip_empty_classes=skip_empty_classes,
        keep_duplicates_together=keep_duplicates_together,
    )
    if part is not None:
        _convert_part(
            console,
            source,
            out,
            part,
            settings,
            options,
            format=format,
            overwrite=overwrite,
            append=append,
            workers=workers,
            strict=strict,
        )
        return
    result = run(
        source,
        out,
        format=format,
        **settings,
        options=options,
        workers=workers,
        strict=strict,
        overwrite=overwrite,
        append=append,
    )
    _print_summary(console, result, cut)


def merge(
    out: Annotated[str, typer.Argument(help="the folder or URL with all the parts: the --out of `convert`")] = "shards",
) -> None:
    """Joins the parts that `convert --part 1/4`, `--part 2/4`, … have written into one data set."""

    from fasttrain.shards.merge import merge as run
    from fasttrain.terminal import make_console
    from fasttrain.text import counted

    manifest = run(out)
    console = make_console()
    console.print(f"{counted(len(manifest.shards), 'shard')}, {manifest.index.samples:,} photographs in {out}")
    _print_conflicts(console, out, manifest)
    _next(console, "next", f"fasttrain train {out}")


def _convert_part(
    console: Console,
    source: str,
    out: str,
    part: str,
    settings: dict[str, Any],
    options: SourceOptions,
    *,
    format: str,
    overwrite: bool,
    append: bool,
    workers: int | None,
    strict: bool,
) -> None:

    from fasttrain.errors import UserError
    from fasttrain.shards.convert import convert_part
    from fasttrain.shards.settings import ShardSettings, parse_formats
    from fasttrain.text import counted

    refused = {
        f"--format {format}": "beton" in parse_formats(format, raw=settings["raw"]),
        "--overwrite": overwrite,
        "--append": append,
    }
    if given := [option for option, used in refused.items() if used]:
        raise UserError(f"--part can't be combined with {' and '.join(given)}; leave --part or the others out")
    result = convert_part(source, out, part, ShardSettings(**settings), options=options, workers=workers, strict=strict)
    speed = result.photos / max(result.seconds, 1e-9)
    console.print(f"part {result.part} in {result.folder}: {counted(result.photos, 'photograph')}, {speed:,.0f} img/s")
    _next(console, f"when all parts are in {out}", f"fasttrain merge {out}")


def _next(console: Console, when: str, command: str) -> None:
    """Print the `command` to run next, as "WHEN: COMMAND"."""
    from rich.text import Text

    console.print(Text.assemble(f"{when}: ", (command, "bold")), soft_wrap=True)


def _print_summary(console: Console, result: ConvertResult, cut: str) -> None:
    from rich.table import Table

    manifest, out = result.manifest, result.out
    table = Table.grid(padding=(0, 2))
    table.add_row("classes", f"{len(manifest.classes):,}")
    table.add_row("photographs", ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items() if count))
    totals = ("photos", "stored", "broken", "ignored")
    table.add_row("as", ", ".join(f"{how} {count:,}" for how, count in manifest.counts.items() if how not in totals))
    size = sum(shard.bytes for shard in manifest.shards)
    table.add_row("shards", f"{len(manifest.shards):,} in {out}, {size / 1e6:,.1f} MB")
    if not result.already:
        table.add_row("speed", f"{result.photos_per_second:,.0f} img/s, {result.seconds:,.1f} s")
    if cut == "auto" and manifest.settings["cut"] == "none" and not manifest.settings.get("raw"):
        table.add_row("cut", "none: the C++ module isn't installed (`fasttrain doctor` shows how to install it)")
    console.print(table)
    _print_rejected(console, result)
    _print_conflicts(console, result.out, manifest)
    _next(console, "next", f"fasttrain train {out}")


def _print_rejected(console: Console, result: ConvertResult) -> None:

    from fasttrain.shards.format import CONVERTED, REJECTED
    from fasttrain.shards.workplace import destination
    from fasttrain.text import counted

    out = destination(result.out)
    converted, listed = (result.manifest.current(name) for name in (CONVERTED, REJECTED))
    if converted in result.manifest.files:
        console.print(f"photographs that had to be changed are listed in {out}/{converted}")
    broken, ignored = (result.manifest.counts[name] for name in ("broken", "ignored"))
    if not broken and not ignored:
        return
    console.print(f"left out: {broken:,} broken, {counted(ignored, 'other file')}, listed in {out}/{listed}")
    lines = out.read(listed).decode("utf-8", errors="replace").splitlines()
    reasons = Counter(line.partition("\t")[2] for line in lines)
    many = [(reason, count) for reason, count in reasons.most_common() if count >= _MANY]
    for reason, count in many[:_BROKEN_SHOWN]:
        console.print(f"  {count:,} files: {reason}", markup=False)
    few = [line for line in lines if reasons[line.partition("\t")[2]] < _MANY]
    for line in few[:_BROKEN_SHOWN]:
        console.print("  " + line.replace("\t", ": "), markup=False)
    if (left := len(few[_BROKEN_SHOWN:]) + sum(count for _, count in many[_BROKEN_SHOWN:])) > 0:
        console.print(f"  and {left:,} more")


def _print_conflicts(console: Console, where: str | Path, manifest: Manifest) -> None:
    """Print a warning if identical photographs are in two classes, with an example."""

    from fasttrain.shards.format import CONFLICTS
    from fasttrain.shards.workplace import destination

    out, name = destination(where), manifest.current(CONFLICTS)
    if name not in manifest.files:
        return
    lines = out.read(name).decode("utf-8", errors="replace").splitlines()
    path, reason = lines[0].split("\t")
    console.print(
        f"warning: {len(lines):,} identical photographs are in two classes, such as {path} ({reason}); all are listed "
        f"in {out}/{name}; correct or drop them with --relabel",
        markup=False,
        soft_wrap=True,
    )
