"""The command `fasttrain inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fasttrain.config.values import CacheSize


def inspect(
    data: Annotated[
        str | None,
        typer.Argument(
            help="shards (a folder or an s3:// URL), or a folder of class folders \\[default: shards; with --labels "
            "the data of the run]",
            metavar="DIR",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="compare every checksum; the exit code is 2 if anything is broken")
    ] = False,
    duplicates: Annotated[bool, typer.Option(help="search for duplicate photographs")] = True,
    distance: Annotated[
        int,
        typer.Option(
            min=0, max=16, help="number of bits, of 64, in which the perceptual hashes of duplicates may differ"
        ),
    ] = 4,
    sheet: Annotated[
        Path | None,
        typer.Option(help="draw the pairs of duplicates, or with --labels the doubtful labels, into this PNG file"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="find labels that are probably wrong, by the predictions in this folder of `train --folds`, "
            "or of a run"
        ),
    ] = None,
    table: Annotated[
        Path, typer.Option(help="with --labels: the CSV file to write; check it and give it to `convert --relabel`")
    ] = Path("labels.csv"),
    workers: Annotated[int | None, typer.Option(min=1, help="number of threads; default: one per core")] = None,
    cache_size: Annotated[
        str | None, typer.Option(help="most disk space for shards downloaded from a URL, such as 50GB")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Shows what is in shards: classes, sizes, JPEG types, duplicates, broken photographs, or doubtful labels."""
    import json

    from fasttrain.config.values import CacheSize
    from fasttrain.errors import UserError
    from fasttrain.inspection.inspect import inspect as run
    from fasttrain.inspection.summary import inspection_summary
    from fasttrain.terminal import make_console
    from fasttrain.text import counted

    limit = CacheSize.of(cache_size)
    if labels is not None:
        _labels(labels, data, table, sheet, limit, as_json)
        return
    data = "shards" if data is None else data
    found = run(data, verify=verify, duplicates=duplicates, distance=distance, workers=workers, cache_size=limit)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        make_console().print(inspection_summary(found))
    if sheet is not None and found.duplicates is not None:
        from fasttrain.inspection.sheet import write_duplicates_sheet

        shown = write_duplicates_sheet(found, sheet, limit)
        line = (
            f"pairs drawn in {sheet}: {shown:,} of {found.duplicates.total:,}"
            if shown
            else f"no duplicates, so {sheet} was not written"
        )
        make_console(stderr=True).print(line)
    if verify and (count := len(found.problems) + len(found.broken)):
        raise UserError(
            f"{found.location}: {counted(count, 'problem')}, listed above; copy those shards again, or run convert "
            "--overwrite"
        )


def _labels(
    run: Path, data: str | None, table: Path, sheet: Path | None, limit: CacheSize | None, as_json: bool
) -> None:
    import json

    from fasttrain.inspection.labels import find_label_issues, write_label_table
    from fasttrain.inspection.sheet import write_labels_sheet
    from fasttrain.inspection.summary import labels_summary
    from fasttrain.terminal import make_console

    found = find_label_issues(run, data)
    write_label_table(found, table)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        make_console().print(labels_summary(found))
    console = make_console(stderr=True)
    if sheet is not None:
        shown = write_labels_sheet(found, sheet, limit)
        line = (
            f"photographs drawn in {sheet}: {shown:,} of {len(found.issues):,}"
            if shown
            else f"no doubtful labels, so {sheet} was not written"
        )
        console.print(line)
    console.print(
        f"suggested labels: {table}; empty the cells of wrong suggestions, then run convert --relabel {table}"
    )
