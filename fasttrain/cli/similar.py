"""The command `fasttrain similar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def similar(
    images: Annotated[list[Path], typer.Argument(help="the photographs to compare the data set with")],
    checkpoint: Annotated[Path, typer.Option(help="a run folder, a checkpoint, or latest (the newest run in runs)")],
    data: Annotated[
        str | None,
        typer.Option(help="shards (a folder or a URL), or a folder of photographs; default: the data of the run"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="number of similar photographs to find for each")] = 12,
    split: Annotated[str, typer.Option(help="the split to search: train, val, test or all")] = "all",
    out: Annotated[Path, typer.Option(help="the file for the contact sheet: .png, .jpg or .webp")] = Path(
        "similar.png"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="photographs per batch")] = 64,
    loader: Annotated[str, typer.Option(help="auto, or the name of a loader (`fasttrain doctor` lists them)")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="number of loader processes or threads; default: one per core")
    ] = None,
    cache_size: Annotated[
        str | None, typer.Option(help="most disk space for shards downloaded from a URL, such as 50GB")
    ] = None,
) -> None:
    """Finds the photographs of a data set that a model sees as most similar to yours, and draws a contact sheet."""
    import json

    from fasttrain.checkpoint.weights import data_of_run, weights_file
    from fasttrain.report.contact_sheet import picture_format

    data = data or data_of_run(weights_file(checkpoint)) or "shards"
    picture_format(out)  # refuse a wrong file name before the work
    from fasttrain.inspection.similar import similar as run
    from fasttrain.inspection.similar import write_similar_sheet

    found = run(
        checkpoint,
        images,
        data,
        count=count,
        split=split,
        device=device,
        batch_size=batch_size,
        loader=loader,
        workers=workers,
        cache_size=cache_size,
    )
    write_similar_sheet(found, out)
    if as_json:
        print(json.dumps([each.to_dict() for each in found], indent=2, ensure_ascii=False))
        return
    for each in found:
        print(each.image)
        for near in each.neighbours:
            print(f"  {near.similarity:.3f}  {' + '.join(near.classes)}  {near.split} {near.file}  (row {near.index})")
    print(f"contact sheet: {out}")
