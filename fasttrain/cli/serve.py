"""`fasttrain serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrain.cli.train import OwnModel

_MODULES = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "python_multipart", "uvicorn")


def serve(
    checkpoint: Annotated[Path, typer.Argument(help="run folder, its weights, checkpoint, or exported .onnx or .xml")],
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="requests must bear the token in it; or set FASTTRAIN_SERVE_TOKEN")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="classes named, where a request doesn't say")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="photographs the model sees at once, at most")] = 64,
    batch_wait: Annotated[float, typer.Option(min=0, help="ms that a batch waits for more")] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="photographs in work; above it requests get 429")] = 256,
    max_body: Annotated[float, typer.Option(min=0.001, help="MB of a request")] = 20.0,
    max_pixels: Annotated[float, typer.Option(min=0.001, help="megapixels of a photograph")] = 50.0,
    max_images: Annotated[int, typer.Option(min=1, help="photographs of a request")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for a body to come, and then for its answer")] = 30.0,
    reject: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="answer unknown below this probability; default: the model's own threshold"),
    ] = None,
    model: OwnModel = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="decoding threads; default: one a core")] = None,
) -> None:
    """Serves a trained model over HTTP, with a page to try it, until Ctrl-C or SIGTERM."""
    import sys

    from fasttrain.checkpoint.weights import weights_file
    from fasttrain.extras import require

    weights_file(checkpoint)
    require("serve", "serve", *_MODULES)
    from fasttrain.cores import usable_cores
    from fasttrain.evaluation.predict import Predictor
    from fasttrain.serving.limits import Limits
    from fasttrain.serving.model import Model, heat_maps
    from fasttrain.serving.server import read_token
    from fasttrain.serving.server import serve as run

    token = read_token(token_file)
    limits = Limits(
        queue=queue,
        body=int(max_body * 1e6),
        images=min(max_images, queue),
        pixels=int(max_pixels * 1e6),
        batch=batch_size,
        batch_wait=batch_wait / 1000,
        timeout=timeout,
    )
    predictor = Predictor(checkpoint, model=model, device=device, reject=reject)

    def say(address: str) -> None:
        if token is None and host not in ("127.0.0.1", "::1", "localhost"):
            print("no token is asked for: whoever reaches this machine can use the service", file=sys.stderr)
        print(f"{predictor.spec.name}: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)

    run(
        Model(predictor, heat_maps(predictor)),
        host,
        port,
        limits=limits,
        workers=usable_cores() if workers is None else workers,
        top_k=top_k,
        token=token,
        say=say,
    )
