"""The command `fasttrain predict`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fasttrain.cli.own_model import OwnModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fasttrain.config.interpolation import Interpolation
    from fasttrain.evaluation.inputs import Refused
    from fasttrain.evaluation.predict import Prediction

_IGNORED_SHOWN = 10


def predict(
    images: Annotated[list[str], typer.Argument(help="photographs, folders of them, or quoted globs")],
    checkpoint: Annotated[
        Path,
        typer.Option(help="a run folder, a checkpoint, an exported .onnx or .xml, or latest (the newest run in runs)"),
    ],
    model: OwnModel = None,
    top_k: Annotated[int, typer.Option(min=1, help="number of classes to list for each photograph")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="photographs per batch")] = 64,
    tta: Annotated[
        str, typer.Option(help="none, or flip: average each prediction with that of the mirror image")
    ] = "none",
    interpolation: Annotated[
        str | None, typer.Option(help="filter that resizes photographs, bilinear or bicubic; default: as in training")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="also write the embeddings (the input of the classifier) to this .npy or .parquet file",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="also draw which areas of a photograph led to the answer, into this folder (needs the explain extra)",
            show_default=False,
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(help='answer "unknown" if the greatest probability is below this; 0: always answer with a class'),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            help="choose --reject on the validation split so that this share of the answers is right, such as 0.98, "
            "and store it with the model"
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="shards for --precision; default: the data of the run", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option(help="table, jsonl, csv or json")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="the same as --format json")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="number of decoding threads; default: one per core")
    ] = None,
) -> None:
    """Predicts the most likely classes of photographs. A multi-label model gives all classes that reach a threshold.

    Each prediction is printed as soon as it is known. Files that can't be read are listed at the end, on standard
    error; the exit code is then 2.
    """
    import sys

    from fasttrain.checkpoint.weights import weights_file
    from fasttrain.errors import UserError
    from fasttrain.evaluation.printed import check_format, print_predictions

    format = check_format("json" if as_json and format == "table" else format)
    if as_json and format != "json":
        raise UserError(f"--json and --format {format} contradict each other; leave one of them out")
    if reject is not None and precision is not None:
        raise UserError("--reject gives a threshold and --precision chooses one; leave one of them out")
    if data is not None and precision is None:
        raise UserError("--data is only used with --precision; leave it out")
    weights_file(checkpoint, exported=True)
    from fasttrain.evaluation.embedding_file import check_embeddings_file, write_embeddings
    from fasttrain.evaluation.predict import Predictor
    from fasttrain.terminal import make_console
    from fasttrain.text import counted

    refused: list[Refused] = []
    kept: list[tuple[str, NDArray[np.float32]]] = []
    if embeddings is not None:
        check_embeddings_file(embeddings)
    predictor = Predictor(
        checkpoint,
        model=model,
        top_k=top_k,
        device=device,
        batch_size=batch_size,
        tta=tta,
        interpolation=cast("Interpolation | None", interpolation),
        workers=workers,
        reject=reject,
        explain=explain,
        with_embeddings=embeddings is not None,
    )
    if precision is not None:
        from fasttrain.evaluation.reject import choose_rejection

        print(choose_rejection(predictor, checkpoint, precision, data), file=sys.stderr)
    predictions = _with_progress(predictor.stream(images, refused.append))
    if embeddings is not None:
        predictions = _keep_embeddings(predictions, kept)
    width = make_console().width if sys.stdout.isatty() else None
    shown = print_predictions(predictions, format, sys.stdout, width=width)
    sys.stdout.flush()
    if embeddings is not None:
        write_embeddings(embeddings, [image for image, _ in kept], [row for _, row in kept])
        print(f"embeddings: {embeddings}, of {counted(len(kept), 'photograph')}", file=sys.stderr)
    if explain is not None and shown:
        print(f"explanations: {counted(shown, 'picture')} in {explain}", file=sys.stderr)
    broken = [each for each in refused if each.broken]
    _list_refused(broken, [each for each in refused if not each.broken])
    if broken:
        raise UserError(
            f"{counted(len(broken), 'file')} could not be read, see the list above; predictions were made for "
            f"{counted(shown, 'photograph')}"
        )


def _keep_embeddings(
    predictions: Iterator[Prediction], kept: list[tuple[str, NDArray[np.float32]]]
) -> Iterator[Prediction]:
    """Yield `predictions` unchanged, and append the path and the embedding of each to `kept`."""
    for prediction in predictions:
        assert prediction.embedding is not None
        kept.append((str(prediction.image), prediction.embedding))
        yield prediction


def _with_progress(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """Yield `predictions` unchanged. If standard output goes to a file, show their number in the terminal."""
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

    from fasttrain.text import counted

    if ignored:
        print(f"ignored: {counted(len(ignored), 'other file')}", file=sys.stderr)
        for each in ignored[:_IGNORED_SHOWN]:
            print(f"  {each}", file=sys.stderr)
        if len(ignored) > _IGNORED_SHOWN:
            print(f"  and {len(ignored) - _IGNORED_SHOWN:,} more", file=sys.stderr)
    for each in broken:
        print(f"{'missing' if each.missing else 'broken'}: {each}", file=sys.stderr)
