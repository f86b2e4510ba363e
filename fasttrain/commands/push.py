"""`push`: write a run's model with its configuration and model card, and upload it to the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.errors import UserError, first_line, of_os
from fasttrain.export.hub_folder import write_hub_folder
from fasttrain.files import make_folder
from fasttrain.text import counted


@dataclass(frozen=True)
class PushResult:
    """The result of `push`: the names of the files, and where they are.

    `folder`: the local folder if `push` was called with `out`, otherwise None. `url`: the repository's address on the
    Hub if the files were uploaded, otherwise None.
    """

    files: tuple[str, ...]
    folder: Path | None = None
    url: str | None = None


def push(
    run: str | Path,
    repository: str,
    *,
    out: str | Path | None = None,
    private: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> PushResult:
    """Upload the model of the run folder `run` to the Hugging Face Hub.

    `repository`: "owner/name"; it is created if it doesn't exist. `out`: write the files to this new or empty folder
    instead, and upload nothing. `private`: make a new repository private. `say`: called with lines about the progress.
    `timm.create_model("hf-hub:owner/name", pretrained=True)` and transformers' `AutoModelForImageClassification` can
    load the model. Raises UserError if the run hasn't finished, if its model isn't one of timm's, or if the upload
    fails.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{repository} is not the name of a repository; write OWNER/NAME")
    run = user_path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder; give the folder of a finished run")
    if out is not None:
        out = user_path(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not an empty folder; choose another --out")
        return PushResult(tuple(_written(run, out, repository)), folder=out)
    with tempfile.TemporaryDirectory(prefix="fasttrain-push-") as temporary:
        files = _written(run, Path(temporary), repository)
        say(f"uploading {counted(len(files), 'file')} to {repository}")
        return PushResult(tuple(files), url=_upload(Path(temporary), repository, private))


def _written(run: Path, folder: Path, repository: str) -> list[str]:
    try:
        make_folder(folder)
        return write_hub_folder(run, folder, repository)
    except OSError as error:
        raise of_os(error, folder, "choose another --out") from error


def _upload(folder: Path, repository: str, private: bool) -> str:
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi(endpoint=huggingface_hub.constants.ENDPOINT, library_name="fasttrain")
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload a model of fasttrain's")
        return str(made)
    except Exception as error:  # the Hub's client raises many kinds of errors: its own, httpx's
        reason = first_line(error)
        raise UserError(
            f"{repository}: the upload failed ({type(error).__name__}: {reason}); log in with `hf auth login` as a "
            "user who may write to this repository, or write the files to a folder with --out"
        ) from error
