"""`fasttrain evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fasttrain.cli.train import OwnModel

if TYPE_CHECKING:
    from fasttrain.config.interpolation import Interpolation


def evaluate(
    checkpoint: Annotated[
        Path, typer.Option(help="a run folder, its model.safetensors, a checkpoint, or latest: the newest run in runs")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="shards (a folder or an s3:// URL), or a folder of class folders; default: what the run trained on"
        ),
    ] = None,
    model: OwnModel = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, val, test or all; default: val, or all of a folder of class folders, which has no splits"
        ),
    ] = None,
    loader: Annotated[str, typer.Option(help="auto, or a loader's name")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="photographs a step")] = 64,
    workers: Annotated[int | None, typer.Option(min=0, help="loader processes or threads")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    amp: Annotated[bool, typer.Option(help="bf16 mixed precision")] = False,
    tta: Annotated[str, typer.Option(help="flip: see each photograph's mirror image too; none")] = "none",
    interpolation: Annotated[
        str | None, typer.Option(help="bilinear or bicubic; default: what the model was trained with")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the whole evaluation as JSON")] = False,
    cache_size: Annotated[str | None, typer.Option(help="50GB: most that shards fetched from a URL may take")] = None,
    on_bad_sample: Annotated[str, typer.Option(help="error, or skip: leave out samples that have changed")] = "error",
    out: Annotated[Path | None, typer.Option(help="also write the JSON to this file")] = None,
    report: Annotated[Path | None, typer.Option(help="also write a page to this file, as a run's report.html")] = None,
) -> None:
    """Evaluates a trained model on one split: top1, top3, top5, precision, recall, F1, the worst classes."""
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
    )
    whole = json.dumps({"data": data, "split": split, **evaluation.to_dict()}, indent=2)
    if as_json:
        print(whole)
    else:
        console = make_console()
        console.print(evaluation_table(evaluation, split=split, warning=baseline_warning(evaluation)))
        for name, place in (("page", report), ("figures", out)):
            if place is not None:
                console.print(f"{name}: {place}", soft_wrap=True)
    if out is not None:
        atomic_write_bytes(out, whole.encode())
