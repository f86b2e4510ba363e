"""`fasttrain inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    data: Annotated[
        str, typer.Argument(help="shards (a folder or an s3:// URL), or a folder of class folders", metavar="DIR")
    ] = "shards",
    verify: Annotated[
        bool, typer.Option("--verify", help="compare every checksum; exit code 2 where anything is broken")
    ] = False,
    duplicates: Annotated[bool, typer.Option(help="look for photographs that are there twice")] = True,
    distance: Annotated[
        int, typer.Option(min=0, max=16, help="bits of 64 in which the hashes of duplicates may differ")
    ] = 4,
    sheet: Annotated[Path | None, typer.Option(help="draw the duplicates, pair by pair, into this PNG")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="threads; default: one a core")] = None,
    cache_size: Annotated[str | None, typer.Option(help="50GB: most that shards fetched from a URL may take")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Says what shards hold: classes, sizes, JPEG kinds, duplicates within and across splits, broken photographs."""
    import json

    from fasttrain.config.values import CacheSize
    from fasttrain.errors import UserError
    from fasttrain.inspection.inspect import inspect as run
    from fasttrain.inspection.summary import inspection_summary
    from fasttrain.terminal import make_console

    limit = CacheSize.of(cache_size)
    found = run(data, verify=verify, duplicates=duplicates, distance=distance, workers=workers, cache_size=limit)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        make_console().print(inspection_summary(found))
    if sheet is not None and found.duplicates is not None:
        from fasttrain.inspection.sheet import write_duplicates_sheet

        shown = write_duplicates_sheet(found, sheet, limit)
        said = f"{shown:,} of {found.duplicates.total:,} pairs in {sheet}" if shown else f"no pairs for {sheet}"
        make_console(stderr=True).print(said)
    if verify and (count := len(found.problems) + len(found.broken)):
        raise UserError(
            f"{found.location}: {count:,} broken, listed above; copy those shards again, or run convert --overwrite"
        )
