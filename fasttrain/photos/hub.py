"""Download data sets from the Hugging Face Hub into the cache of its client (`HF_HOME`)."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fasttrain.config.location import cache_root
from fasttrain.errors import FasttrainError, UserError, fixable
from fasttrain.files import atomic_write_bytes, make_folder
from fasttrain.photos.data_files import CARD, Card, DataFile, choose_files, read_card

HUB = "hf://"
_CONVERTED = "refs/convert/parquet"
_NAME = re.compile(r"hf://(?:datasets/)?(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^:]+))?(?::(?P<config>.+))?")
_INSTEAD = "connect to the network, or give a folder with its Parquet files (--source DIR)"
_TOKEN = "set HF_TOKEN to a token that may read the data set"


@dataclass(frozen=True)
class Downloaded:
    """A downloaded data set: its folder, its Parquet and Arrow files, the name of its configuration, and its card."""

    root: Path
    files: list[DataFile]
    config: str
    card: Card


def download(source: str) -> Downloaded:
    """Download the Parquet and Arrow files of `hf://OWNER/NAME[@REVISION][:CONFIGURATION]` that are not in the cache
    yet.

    The SHA-256 of each file is compared with the one that the Hub lists. If the Hub can't be reached, an earlier
    download is used. Raises UserError if there is no such data set, or if the network or the disk fails.
    """
    found = _NAME.fullmatch(source)
    if found is None:
        raise UserError(f"--source {source}: give hf://OWNER/NAME, or hf://OWNER/NAME:CONFIGURATION")
    name, where = found["name"], f"--source {source}"
    record = cache_root() / "hub" / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    try:
        _require_network(where)
        repository, chosen, config = _chosen(name, found["revision"], found["config"], where)
        root = repository.fetch([file.name for file in chosen])
        make_folder(record.parent)
        files = [[file.name, file.split] for file in chosen]
        atomic_write_bytes(record, json.dumps({"root": str(root), "files": files, "config": config}).encode())
    except FasttrainError as error:
        if isinstance(error, _Unreachable) and (earlier := _earlier_download(record)) is not None:
            return earlier
        raise
    except Exception as error:  # the client raises its own errors, those of httpx and requests, and plain OSErrors
        raise _explained(error, where) from error
    return Downloaded(root, chosen, config, read_card(root / CARD))


class _Unreachable(UserError):
    """Raised if the Hub can't be reached."""


class _Repository:
    """A data set on the Hub, at one commit."""

    def __init__(self, name: str, revision: str | None) -> None:
        from huggingface_hub import HfApi

        self._api, self._name = HfApi(), name
        info = self._api.dataset_info(name, revision=revision, files_metadata=True)
        self._commit = str(info.sha)
        self._digests = {each.rfilename: each.lfs.sha256 for each in info.siblings or [] if each.lfs}
        self.names = [each.rfilename for each in info.siblings or []]

    def fetch(self, names: Sequence[str]) -> Path:
        """Download files and return the folder that holds them."""
        return [self._fetched(name) for name in names][-1].parents[names[-1].count("/")]

    def _fetched(self, name: str) -> Path:
        """Return the path of a file, after downloading it if needed."""
        from huggingface_hub import try_to_load_from_cache

        there = try_to_load_from_cache(self._name, name, repo_type="dataset", revision=self._commit)
        if isinstance(there, str):
            return Path(there)
        path = Path(self._api.hf_hub_download(self._name, name, repo_type="dataset", revision=self._commit))
        if (expected := self._digests.get(name)) and _sha256(path) != expected:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise UserError(f"hf://{self._name}: {name} doesn't match the Hub's SHA-256; run the command again")
        return path


def _chosen(name: str, revision: str | None, config: str | None, where: str) -> tuple[_Repository, list[DataFile], str]:
    """Return the repository, the files and the configuration to download.

    The files are the data set's own Parquet and Arrow files or, if it has none, the Parquet files that the Hub has made
    from it.
    """
    repository = _Repository(name, revision)
    card = read_card(repository.fetch([CARD]) / CARD) if CARD in repository.names else Card()
    files, chosen = choose_files(repository.names, card, config, where, f"hf://{name}:CONFIGURATION")
    if files or revision is not None:
        if files:
            return repository, files, chosen
        raise UserError(f"{where} holds no Parquet files at {revision}; leave out the revision")
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        converted = _Repository(name, _CONVERTED)
    except RevisionNotFoundError as error:
        raise UserError(
            f"{where} holds no Parquet files, and the Hub has converted none; download the data set, and give its "
            "folder"
        ) from error
    hint = f"hf://{name}:CONFIGURATION"
    files, chosen = choose_files(converted.names, Card(default=card.default), config, where, hint)
    if not files:
        raise UserError(f"{where} holds no Parquet files; download the data set, and give its folder")
    return converted, files, chosen


def _require_network(where: str) -> None:
    """Raise _Unreachable if the Hub can't be reached. This is faster than the client, which would retry for most of a
    minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _Unreachable(f"{where}: HF_HUB_OFFLINE is set, and the data set wasn't downloaded before; {_INSTEAD}")
    hub = urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies():
        return
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise _Unreachable(f"{where}: {constants.ENDPOINT} can't be reached ({why}); {_INSTEAD}") from error


def _earlier_download(record: Path) -> Downloaded | None:
    """Return the earlier download of the same source, if all of its files still exist, or None."""
    try:
        plain: dict[str, Any] = json.loads(record.read_bytes())
        root, files = Path(plain["root"]), [DataFile(name, split) for name, split in plain["files"]]
        there = all((root / file.name).is_file() for file in files)
        return Downloaded(root, files, plain["config"], read_card(root / CARD)) if there else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _explained(error: Exception, where: str) -> UserError:
    """Return the UserError for an error of the Hub's client."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{where}: its owner requires your consent: agree on the data set's page, and {_TOKEN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where} has no such revision; check the revision, or leave it out")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{where}: {constants.ENDPOINT} has no such data set; check the name, or {_TOKEN}")
    if isinstance(error, OSError) and (known := fixable(error, fix="set HF_HOME to a folder with free space")):
        return known
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"{where} can't be downloaded ({reason}); run the command again (finished files are kept), or {_INSTEAD}"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
