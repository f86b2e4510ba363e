"""The shards' manifest and index: the contents of `manifest.json` and `index.npy`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fasttrain.errors import UserError
from fasttrain.photos.label_bits import members
from fasttrain.text import closest

SCHEMA = 2
"""The newest schema that can be read. Single-label shards are written with 1, multi-label ones with 2."""
MANIFEST, INDEX, REJECTED, PARTS = "manifest.json", "index.npy", "rejected.tsv", ".parts"
CONVERTED = "converted.tsv"
CONFLICTS = "label_conflicts.tsv"
SPLIT_FILE = "splits.csv"
DUPLICATES = "duplicates.csv"
APPENDED = "appended"
"""The setting that lists what each `convert --append` added."""
EXTRA = "extra_labels.jsonl"

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
ALL = "all"
"""The name for all three splits, in commands that take a split's name."""

_LARGEST = 256 << 20  # bytes of a manifest, enough for a million shards
_NO_CHECKSUM = "0" * 64


def _plain_name(name: str) -> str:
    """Return `name` if it is a plain, printable file name without a folder. Raises ValueError otherwise."""
    if Path(name).name != name or name[:1] in ("", ".") or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is not a valid shard name")
    return name


def _printable(name: str) -> str:
    """Return `name` if it is printable and not empty. Raises ValueError otherwise."""
    if not name or not name.isprintable():
        raise ValueError(f"{name!r} is not a valid class name")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]
ClassName = Annotated[str, AfterValidator(_printable)]


class _FrozenModel(BaseModel):
    """A part of the manifest that can't be changed."""

    model_config = ConfigDict(frozen=True)


class Origin(_FrozenModel):
    """The source of the shards. `fingerprint` is explained in `photos.source.Source`."""

    kind: str
    name: str
    fingerprint: str


class Shard(_FrozenModel):
    """A tar file: its name, its split, its number of samples, its size in `bytes`, and its `sha256` (64 hex digits)."""

    name: FileName
    split: SplitName
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str


class IndexSummary(_FrozenModel):
    """The index file: its sha256, its number of rows, and its name, which changes with `convert --append`."""

    sha256: str
    samples: int = Field(ge=0)
    name: FileName = INDEX

    @model_serializer(mode="wrap")
    def _without_usual_name(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if (name, value) != ("name", INDEX)}


class Manifest(_FrozenModel):
    """The contents of `manifest.json`.

    - `splits`: the number of samples in each split.
    - `settings`: the settings that decide the shards' bytes.
    - `counts`: numbers of photographs, such as "stored" and "broken".
    - `files`: the sha256 of each other file of the shards, by its name; empty in manifests of older versions.
    - `multi_label`: whether a photograph may have several classes, or none. It is written only if it is true.

    The file also has a checksum; see `checksum_holds`.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: int = Field(1, alias="schema", ge=1)
    classes: list[ClassName] = Field(min_length=1)
    splits: dict[SplitName, Annotated[int, Field(ge=0)]]
    source: Origin
    shards: list[Shard]
    index: IndexSummary
    settings: dict[str, Any]
    counts: dict[str, int]
    files: dict[FileName, str] = {}
    multi_label: bool = False

    @model_validator(mode="after")
    def _require_consistent(self) -> Manifest:
        """Raise ValueError if names are repeated, or if the shards and the splits have different numbers of samples."""
        for kind, names in (("class", self.classes), ("shard", [shard.name for shard in self.shards])):
            if len(set(names)) < len(names):
                raise ValueError(f"a {kind} is listed twice")
        for split in SPLITS:
            held = sum(shard.samples for shard in self.shards if shard.split == split)
            if held != self.splits.get(split, 0):
                raise ValueError(f"it says {self.splits.get(split, 0):,} {split} samples, but its shards say {held:,}")
        return self

    @property
    def appends(self) -> int:
        """Return how many times `convert --append` has added photographs."""
        return len(self._records())

    def contains(self, fingerprint: str) -> bool:
        """Return whether these shards were made from the shards with `fingerprint` (see `ShardSet`) by appending."""
        return any(record.get("to") == fingerprint for record in self._records())

    def _records(self) -> list[dict[str, Any]]:
        """Return the record of each append."""
        records = self.settings.get(APPENDED)  # a manifest from elsewhere may hold anything
        return [each for each in records if isinstance(each, dict)] if isinstance(records, list) else []

    def current(self, name: str) -> str:
        """Return the current file name of a list or of the index, such as "splits-2.csv" for "splits.csv" after two
        appends."""
        return numbered(name, self.appends)

    def to_bytes(self) -> bytes:
        """Return the contents of the manifest file, with its checksum.

        The same content always gives the same bytes: there are no times and no machine names in them.
        """
        plain = {**self.model_dump(by_alias=True), "checksum": _NO_CHECKSUM}
        if not self.multi_label:
            del plain["multi_label"]
        text = (json.dumps(plain, indent=1) + "\n").encode()
        return _with_checksum(text, _NO_CHECKSUM, hashlib.sha256(text).hexdigest())


def numbered(name: str, appends: int) -> str:
    """Return the name of a file after `appends` appends: "splits.csv", "splits-1.csv", ...

    An append doesn't replace the earlier file, so that only the manifest decides which version a reader sees.
    """
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{appends}.{suffix}" if appends else name


def checksum_holds(text: bytes) -> bool:
    """Return whether the checksum in a manifest is right, or missing.

    The checksum is the sha256 of the manifest with zeros in the place of the checksum.
    """
    checksum = str(json.loads(text).get("checksum", ""))
    return not checksum or hashlib.sha256(_with_checksum(text, checksum, _NO_CHECKSUM)).hexdigest() == checksum


def _with_checksum(text: bytes, before: str, after: str) -> bytes:
    """Return a manifest with the checksum `before` replaced by `after`."""
    head, _, tail = text.rpartition(before.encode())
    return head + after.encode() + tail


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in `folder`.

    Raises UserError if `folder` holds no complete shards, or shards of a newer version.
    """
    path = folder / MANIFEST
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a regular file; run fasttrain convert again")
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: too large for a manifest of shards; run fasttrain convert again")
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(_no_manifest(folder)) from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); make it readable, or copy it again") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Parse the contents of a manifest. `where` is its path or URL for messages.

    Raises UserError if the manifest is damaged or has a newer schema.
    """
    try:
        plain = json.loads(text)
        version = int(plain["schema"])
        if version > SCHEMA:
            raise UserError(f"{where}: schema {version} is newer than this version reads ({SCHEMA}); upgrade fasttrain")
        return Manifest.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "its contents"
        raise UserError(f"{where}: damaged ({field}: {first['msg']}); run fasttrain convert again") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: damaged, not a manifest of shards; run fasttrain convert again") from error


def index_dtype(key_bytes: int, set_bytes: int = 0) -> np.dtype[np.void]:
    """Return the dtype of a row of `index.npy`; its fields are explained in `ShardSet`.

    `key_bytes` is the length of the longest key, in ASCII. In multi-label shards, a set of `set_bytes` bytes takes the
    place of the label. Shards of older versions lack the last field.
    """
    label = ("labels", "u1", (set_bytes,)) if set_bytes else ("label", "<i4")
    return np.dtype(
        [
            ("key", f"S{max(key_bytes, 1)}"),
            ("shard", "<u4"),
            ("offset", "<u8"),
            ("length", "<u4"),
            ("width", "<u4"),
            ("height", "<u4"),
            label,
            ("split", "u1"),
            ("crc32", "<u4"),
        ]
    )


def label_in(row: np.void) -> int | list[int]:
    """Return the label in a row of the index: a class number, or a list of them if the shards are multi-label."""
    return members(row["labels"]) if "labels" in (row.dtype.names or ()) else int(row["label"])


def class_names(row: np.void, classes: Sequence[str]) -> str:
    """Return the class name of a row of the index. Several names are joined by commas; "none" means no class."""
    label = label_in(row)
    return classes[label] if isinstance(label, int) else ", ".join(classes[each] for each in label) or "none"


def _data_sets_in(folder: Path) -> list[str]:
    try:
        return sorted(each.parent.name for each in folder.glob(f"*/{MANIFEST}"))
    except OSError:
        return []


def _no_manifest(folder: Path) -> str:
    """Return the message for a folder without a manifest."""
    if (folder / PARTS).is_dir():
        return f"{folder}: its conversion didn't finish; run the same fasttrain convert again to resume it"
    near = None if folder.is_dir() else closest(folder.name, _data_sets_in(folder.parent))
    if near is not None:
        return f"{folder} does not exist; did you mean {folder.parent / near}?"
    what = "holds no shards" if folder.is_dir() else "does not exist"
    return f"{folder} {what}; make some: fasttrain convert DIR --out {folder}"
