"""`ShardSet`: read the samples of shards."""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import is_url, user_path
from fasttrain.errors import UserError, of_os
from fasttrain.photos.label_bits import unpacked
from fasttrain.shards.check import index_problem, members_problem
from fasttrain.shards.checksum import sha256_of
from fasttrain.shards.extra_labels import ExtraLabels, read_extra_labels
from fasttrain.shards.format import EXTRA, MANIFEST, REJECTED, SPLITS, Manifest, checksum_holds, read_manifest

if TYPE_CHECKING:
    from fasttrain.config.values import CacheSize

_OPEN_SHARDS = 256  # each needs a file descriptor, and a process may often have only 1,024
_CHUNK = 1 << 20


class Located(NamedTuple):
    """The position of the bytes of n samples, as the C++ functions expect it.

    Sample i is the `lengths[i]` bytes that start at `offsets[i]` in `buffers[which[i]]`. `which` is int32 [n], and
    `offsets` and `lengths` are uint64 [n].
    """

    buffers: list[memoryview]
    which: NDArray[np.int32]
    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]

    def part(self, samples: slice) -> Located:
        """Return the positions of the samples in a slice."""
        return Located(self.buffers, self.which[samples], self.offsets[samples], self.lengths[samples])


class ShardFiles(Protocol):
    """Access to the files of a data set. `location` is the path or URL that the user gave, `folder` the folder on this
    machine that holds the files."""

    @property
    def location(self) -> Path | str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def remote(self) -> bool:
        """Return whether files are downloaded when they are needed."""

    def path(self, name: str, stop: threading.Event | None = None) -> Path:
        """Return the file's path on this machine, after downloading it if needed. `stop` cancels the download."""

    def open(self, name: str) -> BinaryIO:
        """Open the file, to read it or to map it into memory."""

    @property
    def index_must_match(self) -> bool:
        """Return whether an index is refused if its checksum differs from the one in the manifest."""

    def check(self, manifest: Manifest) -> None:
        """Raise UserError if shards are missing or truncated."""

    def mappable(self, manifest: Manifest) -> int | None:
        """Return how many bytes of shards a process may keep mapped into memory, or None if there is no limit."""

    def budget(self) -> int | None:
        """Return how many bytes of files fit on this machine at a time, or None if all files are there."""


@dataclass(frozen=True)
class LocalFiles:
    """Access to a local folder written by `convert`."""

    folder: Path
    remote = False
    index_must_match = True

    @property
    def location(self) -> Path:
        return self.folder

    def path(self, name: str, stop: threading.Event | None = None) -> Path:
        return self.folder / name

    def open(self, name: str) -> BinaryIO:
        return (self.folder / name).open("rb")

    def check(self, manifest: Manifest) -> None:
        for shard in manifest.shards:
            path = self.folder / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                raise UserError(f"{path}: this shard is missing; copy it again, or run convert --overwrite")
            if size != shard.bytes:
                raise UserError(
                    f"{path}: {size:,} bytes, but the manifest says {shard.bytes:,}; copy it again, or run "
                    "convert --overwrite"
                )

    def mappable(self, manifest: Manifest) -> None:
        return None

    def budget(self) -> None:
        return None


class ShardSet:
    """A data set in shards made by `convert`.

    A sample's id is its row in `index`. The rows are those of train, then val, then test; the rows of each append
    follow in the same order. A ShardSet can be pickled, and used after a fork: each process maps the files itself.

    - `location`: the folder or URL of the shards.
    - `folder`: the folder on this machine with the files.
    - `remote`: whether shards are downloaded when they are needed.
    - `classes`, `class_to_idx`: the class names in label order, and the label of each name.
    - `fingerprint`: "sha256:" and the digest of the manifest.
    - `index`: a memory-mapped structured array [n] with a row per sample. Its fields are key (bytes), shard (position
      in manifest.shards), offset and length (of the JPEG or the pixels in the tar, in bytes), width and height
      (pixels), label, split (0 train, 1 val, 2 test), and crc32 (of the same bytes; older shards have none).
      Multi-label shards have `labels`, a set as in `label_bits.packed`, instead of label. All numbers have been checked
      (`shards.check`).
    - `mapped`: whether samples are read from memory-mapped files.
    """

    mapped = True

    def __init__(self, files: ShardFiles) -> None:
        self.files = files
        self.location, self.folder, self.remote = files.location, files.folder, files.remote
        self.manifest: Manifest = read_manifest(self.folder)
        self.fingerprint = f"sha256:{hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()}"
        self.classes = list(self.manifest.classes)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        files.check(self.manifest)
        self.index = self._open_index()
        self._maps: OrderedDict[int, memoryview] = OrderedDict()
        self._mapping = threading.Lock()  # the loader and the check of checksums read in different threads
        self._mappable = files.mappable(self.manifest)

    @classmethod
    def open(cls, location: Path | str, cache_size: CacheSize | None = None) -> ShardSet:
        """Open the shards in a folder or at a URL. `cache_size` limits the cache for a URL; see `shards.remote`.

        Raises UserError if there are no shards, or if they are damaged or have a newer schema.
        """
        if is_url(location):
            from fasttrain.shards.remote import open_remote

            return cls(open_remote(str(location), cache_size))
        return cls(LocalFiles(user_path(location)))

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSet, (self.files,)

    @property
    def raw(self) -> bool:
        """Return whether samples are stored as pixels, uint8 RGB [height, width, 3] (`convert --raw`), and not as
        JPEGs."""
        return bool(self.manifest.settings.get("raw"))

    @property
    def stored(self) -> ShardSet:
        """Return the shards with the splits that `convert` made.

        This is the object itself, except for a `FoldView`, which has other splits.
        """
        return self

    def split_sizes(self) -> dict[str, int]:
        """Return the number of samples in each split: {"train": n, "val": n, "test": n}."""
        return dict(zip(SPLITS, np.bincount(self.index["split"], minlength=len(SPLITS)).tolist(), strict=True))

    def ids(self, split: str) -> NDArray[np.int64]:
        """Return the ids of the samples in `split` ("train", "val" or "test"), int64 [n], in shard order."""
        return np.flatnonzero(self.index["split"] == SPLITS.index(split)).astype(np.int64)

    def sizes(self) -> NDArray[np.int32]:
        """Return the (height, width) in pixels of every sample, int32 [N, 2]."""
        return np.stack([self.index["height"], self.index["width"]], axis=1).astype(np.int32)

    @property
    def multi_label(self) -> bool:
        """Return whether a photograph may have several classes, or none."""
        return self.manifest.multi_label

    def labels(self, samples: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.int64] | NDArray[np.float32]:
        """Return the labels of all samples, or of the given ids: positions in `classes`, int64 [n].

        For multi-label shards, return float32 [n, classes] with 1 if the photograph has the class, otherwise 0.
        """
        if self.multi_label:
            return unpacked(self.index["labels"][samples], len(self.classes)).astype(np.float32)
        return self.class_numbers(samples)

    def class_numbers(self, samples: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.int64]:
        """Return the labels as positions in `classes`, int64 [n], of shards with one class per photograph."""
        return self.index["label"][samples].astype(np.int64)

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Return the number of photographs of each class in `split`, int64 [classes]."""
        rows = self.index[self.ids(split)]
        if self.multi_label:
            return unpacked(rows["labels"], len(self.classes)).sum(0, dtype=np.int64)
        return np.bincount(rows["label"], minlength=len(self.classes))

    def extra_labels(self) -> ExtraLabels:
        """Return the columns of the source's table that are not path, label, split or group, by name.

        Each column has a value for each of the N samples, in the order of their ids.

        A column is int64 or bool [N]; float64 [N] with NaN for missing values, if numbers are missing or not integers;
        or else a list of N strings, lists or None. Returns an empty dict if the source had no such columns. Raises
        UserError if the file is damaged.
        """
        name = self.manifest.current(EXTRA)
        if name not in self.manifest.files:
            return {}
        return read_extra_labels(self.files.path(name), self.index["key"].tolist(), self.manifest.files[name])

    def bytes(self, sample: int) -> memoryview:
        """Return the bytes of a sample: its JPEG, or its pixels if the shards are `raw`.

        The result is a read-only view of the mapped shard, without a copy.
        """
        row = self.index[sample]
        start = int(row["offset"])
        return self._shard(int(row["shard"]))[start : start + int(row["length"])]

    def locate(self, samples: NDArray[np.int64]) -> Located:
        """Return the positions of the bytes of `samples` (ids, int64 [n]) in the mapped shards.

        Raises UserError if the index points outside of a shard.
        """
        rows = self.index[samples]
        numbers, which = np.unique(rows["shard"], return_inverse=True)
        mapped = [self._shard(number) for number in numbers.tolist()]
        sizes = np.array([len(each) for each in mapped], np.uint64)[which]
        offsets, lengths = rows["offset"].astype(np.uint64), rows["length"].astype(np.uint64)
        outside = (lengths > sizes) | (offsets > sizes - np.minimum(lengths, sizes))
        if outside.any():
            sample = int(samples[outside.argmax()])
            raise UserError(
                f"{self.describe(sample)}: {self.manifest.index.name} points outside of the shard; copy both files"
            )
        return Located(mapped, which.astype(np.int32), offsets, lengths)

    def locate_shards(self, numbers: list[int]) -> Located:
        """Return where the bytes of entire shards lie. `numbers`: the shards, as indices into `manifest.shards`."""
        mapped = [self._shard(number) for number in numbers]
        lengths = np.array([len(each) for each in mapped], np.uint64)
        return Located(mapped, np.arange(len(mapped), dtype=np.int32), np.zeros_like(lengths), lengths)

    def fetch(self, number: int, stop: threading.Event | None = None) -> Path:
        """Download shard `number`, a position in manifest.shards, if needed, and return its path on this machine.

        May be called from any thread. `stop` cancels the download.
        """
        return self.files.path(self.manifest.shards[number].name, stop)

    def crc32s(self) -> NDArray[np.uint32] | None:
        """Return the CRC-32 of every sample's bytes when they were written, uint32 [N], or None if the index has no
        such column."""
        return self.index["crc32"] if "crc32" in (self.index.dtype.names or ()) else None

    def describe(self, sample: int) -> str:
        """Return a sample's shard and key for messages."""
        row = self.index[sample]
        return f"{self.location}/{self.manifest.shards[row['shard']].name} ({row['key'].decode()})"

    def left_out(self) -> str:
        """Return a line with the numbers of files that the conversion left out, and the path of the list of them.

        Returns "" if no files were left out.
        """
        broken, other = (self.manifest.counts.get(name, 0) for name in ("broken", "ignored"))
        listed = f"listed in {self.location}/{self.manifest.current(REJECTED)}"
        return f"left out: broken photographs {broken:,}, other files {other:,}; {listed}" if broken or other else ""

    def verify(self, advance: Callable[[int], None] = lambda count: None) -> list[str]:
        """Read all files and compare their checksums. Return a line for each problem.

        `advance` is called with a number of bytes to report progress.
        """
        problems = []
        if not checksum_holds((self.folder / MANIFEST).read_bytes()):
            problems.append(f"{self.folder / MANIFEST}: it has been changed since it was written")
        expected = {shard.name: shard.sha256 for shard in self.manifest.shards}
        others = {} if self.remote else self.manifest.files
        for name, digest in {self.manifest.index.name: self.manifest.index.sha256, **expected, **others}.items():
            found = hashlib.sha256()
            try:
                with self.files.open(name) as file:
                    while chunk := file.read(_CHUNK):
                        found.update(chunk)
                        advance(len(chunk) if name not in others else 0)
            except OSError as error:
                problems.append(f"{self.folder / name}: can't be read ({error.strerror})")
                continue
            except UserError as error:
                problems.append(str(error))
                continue
            if found.hexdigest() != digest:
                problems.append(f"{self.folder / name}: its bytes have changed since it was written")
            elif name in expected and (problem := self._members_problem(name)):
                problems.append(f"{self.folder / name}: {problem}; don't unpack it")
        return problems

    def _members_problem(self, name: str) -> str | None:
        number = [shard.name for shard in self.manifest.shards].index(name)
        return members_problem(self._shard(number), self.index[self.index["shard"] == number], self.raw)

    def _shard(self, number: int) -> memoryview:
        """Return the mapped bytes of a shard. This may unmap another shard, to limit the mapped memory."""
        with self._mapping:
            if number not in self._maps:
                self._map(number)
            self._maps.move_to_end(number)
            return self._maps[number]

    def _map(self, number: int) -> None:
        """Map a shard into memory, and drop the maps that were not used for the longest time if there are too many."""
        shard = self.manifest.shards[number]
        try:
            with self.files.open(shard.name) as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: mmap refuses an empty file
            where = f"{self.location}/{shard.name}"
            if isinstance(error, OSError):
                raise of_os(error, where, "copy it again") from error
            raise UserError(f"{where}: can't be read ({error}); copy it again") from error
        self._maps[number] = mapped
        while len(self._maps) > _OPEN_SHARDS or self._maps_too_much():
            self._maps.popitem(last=False)  # unmapped once its last view is gone

    def _maps_too_much(self) -> bool:
        """Return whether the mapped shards exceed the limit on bytes."""
        if self._mappable is None or len(self._maps) == 1:
            return False
        return sum(len(each) for each in self._maps.values()) > self._mappable

    def _open_index(self) -> NDArray[np.void]:
        """Map the index into memory. Raises UserError if it is missing, damaged or does not match the manifest."""
        path = self.files.path(self.manifest.index.name)
        again = "copy it again, or run convert --overwrite"
        if not path.exists():
            raise UserError(f"{path}: missing; {again}")
        if not path.is_file():
            raise UserError(f"{path}: not a regular file; {again}")
        try:
            index: NDArray[np.void] = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # NumPy parses the header as Python, which fails in many ways
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: damaged ({reason}); {again}") from error
        if problem := index_problem(index, self.manifest):
            raise UserError(f"{path}: {problem}; {again}")
        if self.files.index_must_match:
            with path.open("rb") as file:
                digest = sha256_of(file)
            if digest != self.manifest.index.sha256:
                raise UserError(f"{path}: its bytes have changed since it was written; {again}")
        return index
