"""`fasttrain predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    images: Annotated[list[Path], typer.Argument(help="photographs", metavar="IMAGE...")],
    checkpoint: Annotated[Path, typer.Option(help="a run folder, its model.safetensors, or a checkpoint")],
    top_k: Annotated[int, typer.Option(min=1, help="classes named for each photograph")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Names the most likely classes of photographs."""
    import json

    from rich.console import Console
    from rich.table import Table

    from fasttrain.evaluation.predict import predict as run

    predictions = run(checkpoint, images, top_k=top_k, device=device)
    if as_json:
        print(json.dumps([prediction.to_dict() for prediction in predictions], indent=2))
        return
    table = Table("photograph", "class", "probability", box=None, header_style="bold")
    for prediction in predictions:
        for rank, (name, probability) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True)):
            table.add_row(str(prediction.image) if rank == 0 else "", name, f"{probability:.1%}")
    Console().print(table)
