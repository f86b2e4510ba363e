"""`fasttrain export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrain.cli.train import OwnModel


def export(
    checkpoint: Annotated[
        Path, typer.Option(help="a run folder, its model.safetensors, a checkpoint, or latest: the newest run in runs")
    ],
    format: Annotated[str, typer.Option(help="onnx, torchscript or exported-program")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="the file; default: model.onnx and the like beside the weights")
    ] = None,
    model: OwnModel = None,
    input: Annotated[
        str, typer.Option(help="uint8: the file takes pixels and normalizes them; float: it takes normalized NCHW")
    ] = "uint8",
    data: Annotated[
        str | None, typer.Option(help="what it is checked with: shards, a folder, a photograph; default: drawn ones")
    ] = None,
    photographs: Annotated[int, typer.Option(min=1, help="how many it is checked with")] = 64,
    tolerance: Annotated[
        float, typer.Option(min=0, help="greatest difference, as a share of the greatest logit")
    ] = 1e-3,
    speed: Annotated[bool, typer.Option(help="measure img/s beside PyTorch's")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Writes a trained model for other programs, and checks it against the model on photographs."""
    import json

    from rich.table import Table

    from fasttrain.checkpoint.weights import weights_file

    weights_file(checkpoint)
    from fasttrain.export.export import export as run
    from fasttrain.export.speed import speed_lines
    from fasttrain.terminal import make_console

    with make_console(stderr=True).status("loading") as status:
        result = run(
            checkpoint,
            format,
            out,
            model=model,
            input=input,
            data=data,
            photographs=photographs,
            tolerance=tolerance,
            speed=speed,
            say=status.update,
        )
    if as_json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("file", f"{result.path!s}, {result.bytes / 1e6:,.1f} MB")
    table.add_row("takes", result.metadata["input"])
    table.add_row("gives", result.metadata["output"])
    share = result.max_difference / max(1.0, result.max_logit)
    table.add_row("checked", f"{result.photographs:,} photographs, {result.source}")
    table.add_row("", f"greatest difference of a logit {result.max_difference:.2e} ({share:.1e} of the greatest)")
    table.add_row("", f"the same likeliest class for {result.same_top1} of {result.photographs}")
    for number, line in enumerate(speed_lines(result.speeds, result.runtime, result.threads)):
        table.add_row("speed" if number == 0 else "", line)
    make_console().print(table)
