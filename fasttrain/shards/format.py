"""The shards' manifest and index: what `manifest.json` and `index.npy` hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fasttrain.errors import UserError

SCHEMA = 1
MANIFEST, INDEX, REJECTED, PARTS = "manifest.json", "index.npy", "rejected.tsv", ".parts"

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Origin(_Part):
    """The source that was converted; `fingerprint` as in `photos.sources.Source`."""

    kind: str
    name: str
    fingerprint: str


class Shard(_Part):
    """One tar; `bytes` is its size, `sha256` 64 hex digits over it."""

    name: str
    split: SplitName
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str


class IndexSummary(_Part):
    """`index.npy`: the sha256 of the file, and its number of rows."""

    sha256: str
    samples: int = Field(ge=0)


class Manifest(_Part):
    """`manifest.json`. `splits`: samples in each; `settings`: what shaped the bytes; `counts`: photographs."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: int = Field(SCHEMA, alias="schema")
    classes: list[str] = Field(min_length=1)
    splits: dict[SplitName, int]
    source: Origin
    shards: list[Shard]
    index: IndexSummary
    settings: dict[str, Any]
    counts: dict[str, int]

    def to_bytes(self) -> bytes:
        """The same bytes for the same content: no times, no machine names."""
        return (json.dumps(self.model_dump(by_alias=True), indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError, one line, where `folder` holds no (whole) shards, or those of a newer fasttrain."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(_no_manifest(folder)) from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """A manifest's bytes, read from `where`. Raises UserError, one line, where they are damaged or a newer schema's."""
    try:
        plain = json.loads(text)
        version = int(plain["schema"])
        if version > SCHEMA:
            raise UserError(f"{where}: schema {version} is newer than this fasttrain reads ({SCHEMA}); upgrade it")
        return Manifest.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: damaged ({field}: {first['msg']}); run fasttrain convert again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: damaged, not a manifest of shards; run fasttrain convert again") from error


def index_dtype(key_bytes: int) -> np.dtype[np.void]:
    """A row of `index.npy`; keys are ASCII of at most `key_bytes`, the rest is said in `ShardSet`."""
    return np.dtype(
        [
            ("key", f"S{max(key_bytes, 1)}"),
            ("shard", "<u4"),
            ("offset", "<u8"),
            ("length", "<u4"),
            ("width", "<u4"),
            ("height", "<u4"),
            ("label", "<i4"),
            ("split", "u1"),
        ]
    )


def _no_manifest(folder: Path) -> str:
    if (folder / PARTS).is_dir():
        return f"{folder}: its conversion didn't finish; run the same fasttrain convert again to go on with it"
    what = "holds no shards" if folder.is_dir() else "does not exist"
    return f"{folder} {what}; make some: fasttrain convert --source DIR --out {folder}"
