"""The command `fasttrain evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fasttrain.cli.own_model import OwnModel

if TYPE_CHECKING:
    from fasttrain.config.interpolation import Interpolation


def evaluate(
    checkpoint: Annotated[
        Path, typer.Option(help="a run folder, its model.safetensors, a checkpoint, or latest (the newest run in runs)")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="shards (a folder or an s3:// URL), or a folder of class folders; default: the data of the run"
        ),
    ] = None,
    model: OwnModel = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, val, test or all; default: val, or all for a folder of class folders, which has no splits"
        ),
    ] = None,
    loader: Annotated[str, typer.Option(help="auto, or the name of a loader (`fasttrain doctor` lists them)")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="photographs per batch")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="number of loader processes or threads; default: one per core")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    amp: Annotated[bool, typer.Option(help="evaluate in mixed precision (bf16)")] = False,
    tta: Annotated[
        str, typer.Option(help="none, or flip: average each prediction with that of the mirror image")
    ] = "none",
    interpolation: Annotated[
        str | None, typer.Option(help="filter that resizes photographs, bilinear or bicubic; default: as in training")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the complete evaluation as JSON")] = False,
    cache_size: Annotated[
        str | None, typer.Option(help="most disk space for shards downloaded from a URL, such as 50GB")
    ] = None,
    on_bad_sample: Annotated[
        str, typer.Option(help="error, or skip: leave out photographs that have changed or don't decode")
    ] = "error",
    out: Annotated[Path | None, typer.Option(help="also write the evaluation to this file, as JSON")] = None,
    report: Annotated[
        Path | None, typer.Option(help="also write a report to this HTML file, like a run's report.html")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="show in the report which areas led to each mistake (needs the explain extra)"),
    ] = False,
) -> None:
    """Evaluates a trained model on one split: top-1, top-3 and top-5 accuracy, precision, recall, F1, worst classes."""
    import json

    from fasttrain.checkpoint.weights import data_of_run, weights_file

    data = data or data_of_run(weights_file(checkpoint)) or "shards"
    from fasttrain.commands.evaluate import evaluate as run
    from fasttrain.evaluation.splits import default_split
    from fasttrain.files import atomic_write_bytes, require_place
    from fasttrain.report.summary import evaluation_table
    from fasttrain.report.verdict import baseline_warning
    from fasttrain.terminal import make_console

    for place in (out, report):
        if place is not None:
            require_place(place)
    split = split or default_split(data)
    evaluation = run(
        checkpoint,
        data,
        model=model,
        split=split,
        loader=loader,
        batch_size=batch_size,
        workers=workers,
        device=device,
        amp=amp,
        tta=tta,
        interpolation=cast("Interpolation | None", interpolation),
        cache_size=cache_size,
        on_bad_sample=on_bad_sample,
        report=report,
        explain=explain,
    )
    text = json.dumps({"data": data, "split": split, **evaluation.to_dict()}, indent=2)
    if as_json:
        print(text)
    else:
        console = make_console()
        console.print(evaluation_table(evaluation, split=split, warning=baseline_warning(evaluation)))
        for name, place in (("page", report), ("figures", out)):
            if place is not None:
                console.print(f"{name}: {place}", soft_wrap=True)
    if out is not None:
        atomic_write_bytes(out, text.encode())
