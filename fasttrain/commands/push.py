"""`push`: a run's model, its configuration and its card, into a folder and to the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fasttrain.config.location import user_path
from fasttrain.errors import UserError, of_os
from fasttrain.export.hub_folder import write_hub_folder
from fasttrain.files import make_folder


@dataclass(frozen=True)
class PushResult:
    """The files of the repository, where they were written to (None: nowhere to stay), and its URL once it is there."""

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
    """Upload the model of the run folder `run` to `repository`, "owner/name", which is made where it is absent.

    The repository is what `timm.create_model("hf-hub:owner/name", pretrained=True)` and transformers'
    `AutoModelForImageClassification` load. With `out` its files are written to that folder, and nothing is uploaded.
    Raises UserError for a run that has not ended, a model that isn't timm's, or where the hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{repository}: give the repository as OWNER/NAME")
    run = user_path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    if out is not None:
        out = user_path(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: not an empty folder; choose another --out")
        return PushResult(tuple(_written(run, out, repository)), folder=out)
    with tempfile.TemporaryDirectory(prefix="fasttrain-push-") as temporary:
        files = _written(run, Path(temporary), repository)
        say(f"uploading {len(files)} files to {repository}")
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
    except Exception as error:  # the hub client raises a dozen kinds: httpx's, its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{repository}: the hub refuses it ({type(error).__name__}: {said}); log in with `hf auth login` as an "
            "account that may write there, or write the files with --out"
        ) from error
