"""The command `fasttrain serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrain.cli.own_model import OwnModel

_MODULES = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "python_multipart", "uvicorn")


def serve(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="a run folder, its model.safetensors, a checkpoint, an exported .onnx or .xml, or latest (the newest "
            "run in runs); --checkpoint is accepted, too"
        ),
    ],
    host: Annotated[
        str, typer.Option(help="the address to listen on; 0.0.0.0 accepts requests from other machines")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="the port to listen on; 0 chooses a free one")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="a file with the token that requests must send; or set FASTTRAIN_SERVE_TOKEN to the token"),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, help="number of classes in an answer, unless the request gives another")
    ] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="greatest number of photographs per batch")] = 64,
    batch_wait: Annotated[
        float, typer.Option(min=0, help="how long a batch waits for more photographs, in milliseconds")
    ] = 5.0,
    queue: Annotated[
        int,
        typer.Option(min=1, help="greatest number of photographs in progress; further requests get status 429"),
    ] = 256,
    max_body: Annotated[float, typer.Option(min=0.001, help="greatest size of a request, in MB")] = 20.0,
    max_pixels: Annotated[float, typer.Option(min=0.001, help="greatest size of a photograph, in megapixels")] = 50.0,
    max_images: Annotated[int, typer.Option(min=1, help="greatest number of photographs per request")] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="seconds to wait for a request's body, and again for its answer")
    ] = 30.0,
    reject: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help='answer "unknown" if the greatest probability is below this; default: the threshold stored with the '
            "model",
        ),
    ] = None,
    model: OwnModel = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="number of decoding threads; default: one per core")
    ] = None,
) -> None:
    """Serves a trained model over HTTP, with a web page to try it. Ctrl-C or SIGTERM stops it."""
    import sys

    from fasttrain.checkpoint.weights import weights_file
    from fasttrain.extras import require

    weights_file(checkpoint, exported=True)
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
            print(
                "warning: no token is set, so anyone who can reach this machine can use the service; set one with "
                "--token-file",
                file=sys.stderr,
            )
        print(f"{predictor.spec.name}: {address} (press Ctrl-C to stop)", file=sys.stderr, flush=True)

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
