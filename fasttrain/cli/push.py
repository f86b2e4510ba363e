"""The command `fasttrain push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[
        Path,
        typer.Argument(
            help="a run folder, or latest (the newest run in runs); --checkpoint is accepted, too", metavar="RUN"
        ),
    ],
    repository: Annotated[
        str, typer.Argument(help="the repository on the Hub; it is created if it doesn't exist", metavar="OWNER/NAME")
    ],
    out: Annotated[Path | None, typer.Option(help="write the files to this folder instead of uploading them")] = None,
    private: Annotated[bool, typer.Option("--private", help="create the repository as a private one")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Uploads a run's model with a model card to the Hugging Face Hub, from where timm and transformers can load it."""
    import json

    from fasttrain.checkpoint.weights import newest_if_latest

    run = newest_if_latest(run)
    from fasttrain.commands.push import push as command
    from fasttrain.terminal import make_console

    with make_console(stderr=True).status("writing the files") as status:
        result = command(run, repository, out=out, private=private, say=status.update)
    if as_json:
        folder = None if result.folder is None else str(result.folder)
        print(json.dumps({"files": result.files, "folder": folder, "url": result.url}, indent=2))
        return
    console = make_console()
    console.print(f"{result.folder or result.url}: {', '.join(result.files)}", soft_wrap=True)
    if result.folder is not None:
        console.print(f"to load: timm.create_model('local-dir:{result.folder}', pretrained=True)", soft_wrap=True)
