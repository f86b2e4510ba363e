"""The command `fasttrain export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrain.cli.own_model import OwnModel
from fasttrain.export.registry import FORMATS


def export(
    checkpoint: Annotated[
        Path, typer.Option(help="a run folder, its model.safetensors, a checkpoint, or latest (the newest run in runs)")
    ],
    format: Annotated[str, typer.Option(help="one of " + ", ".join(FORMATS))] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="the file to write; default: next to the weights, such as model.onnx")
    ] = None,
    model: OwnModel = None,
    input: Annotated[
        str,
        typer.Option(
            help="input of the exported model; uint8: pixels, which it normalizes itself; float: normalized NCHW"
        ),
    ] = "uint8",
    data: Annotated[
        str | None,
        typer.Option(
            help="photographs to check the file with: shards, a folder or a photograph; default: the data of the run, "
            "or drawn photographs if that is missing"
        ),
    ] = None,
    photographs: Annotated[int, typer.Option(min=1, help="number of photographs to check the file with")] = 64,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="greatest accepted difference of the logits, as a share of the greatest logit; default: depends on "
            "the format",
        ),
    ] = None,
    accept_drop: Annotated[
        float,
        typer.Option(min=0, help="greatest accepted loss of top-1 accuracy on the validation split, percentage points"),
    ] = 1.0,
    speed: Annotated[bool, typer.Option(help="measure the speed in images/s, and compare it with PyTorch's")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Exports a trained model for other programs, and checks on photographs that it predicts the same."""
    import json

    from fasttrain.checkpoint.weights import weights_file

    weights_file(checkpoint)
    from fasttrain.export.export import export as run
    from fasttrain.export.printed import facts, figures, next_steps
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
    if (steps := next_steps(result)) is not None:
        console.print(steps)
