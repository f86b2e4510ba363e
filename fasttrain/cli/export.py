"""`fasttrain export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrain.cli.train import OwnModel
from fasttrain.export.registry import FORMATS


def export(
    checkpoint: Annotated[
        Path, typer.Option(help="a run folder, its model.safetensors, a checkpoint, or latest: the newest run in runs")
    ],
    format: Annotated[str, typer.Option(help="one of " + ", ".join(FORMATS))] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="the file; default: model.onnx and the like beside the weights")
    ] = None,
    model: OwnModel = None,
    input: Annotated[
        str, typer.Option(help="uint8: the file takes pixels and normalizes them; float: it takes normalized NCHW")
    ] = "uint8",
    data: Annotated[
        str | None,
        typer.Option(
            help="what it is checked with: shards, a folder, a photograph; default: the run's own, else drawn ones"
        ),
    ] = None,
    photographs: Annotated[int, typer.Option(min=1, help="how many it is checked with")] = 64,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="greatest difference, as a share of the greatest logit; default: the format's"),
    ] = None,
    accept_drop: Annotated[
        float, typer.Option(min=0, help="points of top1 on the validation split that the file may lose")
    ] = 1.0,
    speed: Annotated[bool, typer.Option(help="measure img/s beside PyTorch's")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Writes a trained model for other programs, and checks it against the model on photographs."""
    import json

    from fasttrain.checkpoint.weights import weights_file

    weights_file(checkpoint)
    from fasttrain.export.export import export as run
    from fasttrain.export.printed import facts, figures
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
            accept_drop=accept_drop,
            speed=speed,
            say=status.update,
        )
    if as_json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
        return
    console = make_console()
    console.print(facts(result))
    console.print(figures(result))
