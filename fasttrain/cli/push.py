"""`fasttrain push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[Path, typer.Argument(help="a run folder", metavar="RUN")],
    repository: Annotated[str, typer.Argument(help="the hub's repository", metavar="OWNER/NAME")],
    out: Annotated[Path | None, typer.Option(help="write the files to this folder, and upload nothing")] = None,
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Uploads a run's model, with a model card, to the Hugging Face Hub, where timm and transformers load it."""
    import json

    from fasttrain.checkpoint.weights import weights_file

    weights_file(run)
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
        console.print(f"timm.create_model('local-dir:{result.folder}', pretrained=True) loads it", soft_wrap=True)
