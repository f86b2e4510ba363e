"""`fasttrain predict`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fasttrain.cli.train import OwnModel

if TYPE_CHECKING:
    from fasttrain.config.interpolation import Interpolation
    from fasttrain.evaluation.inputs import Refused
    from fasttrain.evaluation.predict import Prediction

_IGNORED_SHOWN = 10


def predict(
    images: Annotated[list[str], typer.Argument(help="photographs, folders of them, or quoted globs")],
    checkpoint: Annotated[
        Path, typer.Option(help="a run folder, its model.safetensors, a checkpoint, or latest: the newest run in runs")
    ],
    model: OwnModel = None,
    top_k: Annotated[int, typer.Option(min=1, help="classes named for each photograph")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="photographs the model sees at once")] = 64,
    tta: Annotated[str, typer.Option(help="flip: see each photograph's mirror image too; none")] = "none",
    interpolation: Annotated[
        str | None, typer.Option(help="bilinear or bicubic; default: what the model was trained with")
    ] = None,
    format: Annotated[str, typer.Option(help="table, jsonl, csv or json")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="the same as --format json")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="decoding threads; default: one a core")] = None,
) -> None:
    """Names the most likely classes of photographs, as they come; of a multi-label model all that reach a threshold.

    Files that can't be read are listed at the end, on the standard error output; the exit code is then 2.
    """
    import sys

    from fasttrain.checkpoint.weights import weights_file
    from fasttrain.errors import UserError
    from fasttrain.evaluation.printed import check_format, print_predictions

    format = check_format("json" if as_json and format == "table" else format)
    if as_json and format != "json":
        raise UserError(f"--json and --format {format} ask for two things; leave one out")
    weights_file(checkpoint)
    from fasttrain.evaluation.predict import Predictor
    from fasttrain.terminal import make_console

    refused: list[Refused] = []
    predictor = Predictor(
        checkpoint,
        model=model,
        top_k=top_k,
        device=device,
        batch_size=batch_size,
        tta=tta,
        interpolation=cast("Interpolation | None", interpolation),
        workers=workers,
    )
    predictions = _watched(predictor.stream(images, refused.append))
    width = make_console().width if sys.stdout.isatty() else None
    shown = print_predictions(predictions, format, sys.stdout, width=width)
    sys.stdout.flush()
    broken = [each for each in refused if each.broken]
    _list_refused(broken, [each for each in refused if not each.broken])
    if broken:
        raise UserError(f"{len(broken):,} could not be read, as listed; {shown:,} photographs were predicted")


def _watched(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """The same, with a count on the terminal where the predictions themselves go elsewhere."""
    import sys

    if sys.stdout.isatty() or not sys.stderr.isatty():
        yield from predictions
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from fasttrain.terminal import make_console

    columns = SpinnerColumn(), TextColumn("{task.completed:,} photographs{task.fields[rate]}"), TimeElapsedColumn()
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, rate="")
        for number, prediction in enumerate(predictions, start=1):
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = f", {number / elapsed:,.0f} img/s" if elapsed else ""
            progress.update(task, completed=number, rate=rate)
            yield prediction


def _list_refused(broken: list[Refused], ignored: list[Refused]) -> None:
    import sys

    if ignored:
        files = "file" if len(ignored) == 1 else "files"
        print(f"passed over: {len(ignored):,} other {files}", file=sys.stderr)
        for each in ignored[:_IGNORED_SHOWN]:
            print(f"  {each}", file=sys.stderr)
        if len(ignored) > _IGNORED_SHOWN:
            print(f"  and {len(ignored) - _IGNORED_SHOWN:,} more", file=sys.stderr)
    for each in broken:
        print(f"{'missing' if each.missing else 'broken'}: {each}", file=sys.stderr)
