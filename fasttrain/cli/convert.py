"""`fasttrain convert`."""

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
        str | None, typer.Argument(help="the same as --source", metavar="[SOURCE]", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="food101 (downloads it), sample (draws a small one), a folder of photographs, a zip or tar of one, "
            "WebDataset's tars, FFCV's .beton files, TFRecords, a table of paths and labels (.csv, .tsv, .jsonl, "
            ".parquet, .txt), or a Hugging Face data set (hf://OWNER/NAME, a folder that `datasets` saved, Parquet "
            "files); a folder or table may be a URL (s3://bucket/photographs) \\[default: food101]",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="where the shards are written: a folder, or a URL (s3://bucket/shards) "
            "\\[default: shards/NAME, by the source's]",
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="tar, or tar,beton: FFCV's files too")] = "tar",
    val_fraction: Annotated[
        float, typer.Option(help="share of each class's training photographs that validates")
    ] = 0.2,
    test_fraction: Annotated[float, typer.Option(help="share of each class's training photographs that tests")] = 0.0,
    seed: Annotated[int, typer.Option(help="of the choice for validation, and of the order")] = 0,
    max_size: Annotated[int | None, typer.Option(help="shrink photographs whose longest side exceeds this, px")] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality where a photograph must be encoded anew")] = 95,
    cut: Annotated[
        str, typer.Option(help="lossless rewrite for fast crops: mcu, row, none, or auto (mcu where it can)")
    ] = "auto",
    optimize: Annotated[bool, typer.Option(help="Huffman tables made for each photograph: smaller files")] = True,
    shard_size: Annotated[int, typer.Option(help="photographs a shard")] = 1000,
    raw: Annotated[
        bool, typer.Option("--raw", help="decoded pixels, no JPEG: fastest to read, far larger; needs --max-size")
    ] = False,
    color: Annotated[
        str, typer.Option(help="ICC profiles: srgb converts, keep doesn't, auto does where it changes the colours much")
    ] = "auto",
    accept_damaged: Annotated[
        float, typer.Option(help="the share of a damaged JPEG, 0 to 1, that must be intact for it to be stored")
    ] = 0.98,
    classes: Annotated[
        str | None,
        typer.Option(help="where class folders hold folders: top, leaf or path says which of them are the classes"),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="keep a group in one split: a table's column, or a regular expression for each path"),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="a table of paths and splits that are fixed, as a splits.csv of earlier shards")
    ] = None,
    relabel: Annotated[
        Path | None, typer.Option(help="a table of paths and new labels; the label drop leaves a photograph out")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="where a table's paths start; default: the table's folder")] = None,
    path_column: Annotated[str | None, typer.Option(help="a table's column of paths; default: by its name")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="a table's column of labels, or the name of another file's; default: by its name")
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="a table's column of splits; default: by its name")] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="the classes' names, one a line, where labels are numbers")
    ] = None,
    multi_label: Annotated[
        bool | None,
        typer.Option(
            "--multi-label/--no-multi-label",
            help="a table's photographs have any number of classes: lists, names separated by | ; , or spaces, several "
            "rows, or a column of 0 and 1 for each class; default: as its cells look",
        ),
    ] = None,
    keep_duplicates_together: Annotated[
        bool,
        typer.Option("--keep-duplicates-together", help="look for near-duplicates first, and keep them in one split"),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="threads; default: one a core")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="a broken photograph is an error")] = False,
    skip_empty_classes: Annotated[
        bool, typer.Option("--skip-empty-classes", help="leave out a class none of whose files is a photograph")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="2/4: the second of four machines' shares of the shards, then `merge`; auto: as Slurm, Kubernetes or "
            "torchrun numbers this process"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace other shards that lie in --out")] = False,
    append: Annotated[
        bool, typer.Option("--append", help="add the photographs that the shards in --out don't have yet")
    ] = False,
) -> None:
    """Converts photographs into shards, once; stopped half-way, the same command goes on where it was."""

    from fasttrain.errors import UserError
    from fasttrain.photos.source import SourceOptions
    from fasttrain.shards.convert import convert as run
    from fasttrain.shards.find import default_out
    from fasttrain.terminal import make_console

    if photographs is not None and source is not None:
        raise UserError(f"{photographs} and --source {source} are two sources; give one")
    source = photographs or source or "food101"
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
            others=overwrite or append,
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
    out: Annotated[str, typer.Argument(help="the --out of each `convert --part`, where all the parts lie")] = "shards",
) -> None:
    """Joins the parts that `convert --part 1/4`, `2/4`, ... wrote into one data set."""

    from fasttrain.shards.merge import merge as run
    from fasttrain.terminal import make_console

    manifest = run(out)
    console = make_console()
    console.print(f"{len(manifest.shards):,} shards, {manifest.index.samples:,} photographs in {out}")
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
    others: bool,
    workers: int | None,
    strict: bool,
) -> None:

    from fasttrain.errors import UserError
    from fasttrain.shards.convert import convert_part
    from fasttrain.shards.settings import ShardSettings, parse_formats

    if "beton" in parse_formats(format, raw=settings["raw"]) or others:
        raise UserError("--part goes with none of --format tar,beton, --overwrite and --append; leave them out")
    result = convert_part(source, out, part, ShardSettings(**settings), options=options, workers=workers, strict=strict)
    speed = result.photos / max(result.seconds, 1e-9)
    console.print(f"part {result.part} in {result.folder}: {result.photos:,} photographs, {speed:,.0f} img/s")
    _next(console, f"when all parts are in {out}", f"fasttrain merge {out}")


def _next(console: Console, when: str, command: str) -> None:
    from rich.text import Text

    console.print(Text.assemble(f"{when}: ", (command, "bold")), soft_wrap=True)


def _print_summary(console: Console, result: ConvertResult, cut: str) -> None:
    from rich.table import Table

    manifest, out = result.manifest, result.out
    table = Table.grid(padding=(0, 2))
    table.add_row("classes", f"{len(manifest.classes):,}")
    table.add_row("photographs", ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items() if count))
    ours = ("photos", "stored", "broken", "ignored")
    table.add_row("as", ", ".join(f"{how} {count:,}" for how, count in manifest.counts.items() if how not in ours))
    size = sum(shard.bytes for shard in manifest.shards)
    table.add_row("shards", f"{len(manifest.shards):,} in {out}, {size / 1e6:,.1f} MB")
    if not result.already:
        table.add_row("speed", f"{result.photos_per_second:,.0f} img/s, {result.seconds:,.1f} s")
    if cut == "auto" and manifest.settings["cut"] == "none" and not manifest.settings.get("raw"):
        table.add_row("cut", "none: the C++ module isn't installed (`fasttrain doctor` says how)")
    console.print(table)
    _print_rejected(console, result)
    _print_conflicts(console, result.out, manifest)
    _next(console, "next", f"fasttrain train {out}")


def _print_rejected(console: Console, result: ConvertResult) -> None:

    from fasttrain.shards.format import CONVERTED, REJECTED
    from fasttrain.shards.workplace import destination

    out = destination(result.out)
    converted, listed = (result.manifest.current(name) for name in (CONVERTED, REJECTED))
    if converted in result.manifest.files:
        console.print(f"not stored as they came: listed in {out}/{converted}")
    broken, ignored = (result.manifest.counts[name] for name in ("broken", "ignored"))
    if not broken and not ignored:
        return
    console.print(f"left out: {broken:,} broken, {ignored:,} other files, listed in {out}/{listed}")
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
    """Warn of photographs that are in two classes."""

    from fasttrain.shards.format import CONFLICTS
    from fasttrain.shards.workplace import destination

    out, name = destination(where), manifest.current(CONFLICTS)
    if name not in manifest.files:
        return
    lines = out.read(name).decode("utf-8", errors="replace").splitlines()
    path, reason = lines[0].split("\t")
    console.print(
        f"warning: {len(lines):,} photographs are in two classes, byte for byte the same, such as {path} "
        f"({reason}): listed in {out}/{name}; --relabel corrects or drops them",
        markup=False,
        soft_wrap=True,
    )
