"""Read photographs directly from their folder, without converting the data set into shards."""

from __future__ import annotations

import logging
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import cache_root, user_path
from fasttrain.errors import UserError, fault_of_machine, of_os
from fasttrain.files import atomic_folder, make_folder
from fasttrain.photos.normalize import BrokenPhoto, directly_decodable, normalize
from fasttrain.photos.room import Hold, PixelBudget, pixels_of_file, pixels_that_fit
from fasttrain.photos.source import Source
from fasttrain.photos.sources import open_source
from fasttrain.photos.split import decide_splits
from fasttrain.shards.format import MANIFEST, SPLITS, IndexSummary, Manifest, Origin
from fasttrain.shards.reader import LocalFiles, Located, ShardSet
from fasttrain.shards.settings import ShardSettings

log = logging.getLogger("fasttrain")

_HEAD = 1 << 16  # bytes; the header of nearly every JPEG is shorter
_AT_A_TIME = 256  # photographs examined by the threads at a time
_INDEX = np.dtype(
    [
        ("row", np.int64),
        ("width", np.uint32),
        ("height", np.uint32),
        ("label", np.int32),
        ("split", np.uint8),
        ("shard", np.uint32),  # always 0; loaders need this field to know which photographs are stored together
        ("offset", np.uint64),
        ("length", np.uint32),  # bytes of the JPEG in prepared.bin; 0: read from its original file
    ]
)
_INDEX_FILE, _PREPARED_FILE = "index.npy", "prepared.bin"


class PhotographFolder(ShardSet):
    """A folder of photographs that loaders can use like shards; the attributes and methods are those of `ShardSet`.

    A JPEG that needs no change is read from its file each time. Other photographs (other formats, rotated ones, other
    colour spaces) are converted once, into the cache. Files without a readable header are left out, with a warning in
    the log. Damage after the header is found when the photograph is decoded.
    """

    mapped = False

    def __init__(self, folder: Path, source: Source, index: NDArray[np.void], prepared: Path) -> None:
        self.files = LocalFiles(folder)
        self.location, self.folder, self.remote = folder, folder, False
        self.index, self._paths, self._prepared_file = index, source.paths, prepared
        self.classes = list(source.classes)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.fingerprint = source.local_state
        counts = {split: int((index["split"] == number).sum()) for number, split in enumerate(SPLITS)}
        self.manifest = Manifest.model_construct(
            classes=self.classes,
            splits=counts,
            source=Origin(kind=source.kind, name=source.name, fingerprint=source.fingerprint),
            shards=[],
            index=IndexSummary(sha256="", samples=len(index)),
            settings={},
            counts={"broken": len(source.paths) - len(index)},
        )
        self._prepared: memoryview | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ({**vars(self), "_prepared": None},)

    @property
    def raw(self) -> bool:
        return False

    def extra_labels(self) -> dict[str, Any]:
        return {}

    def crc32s(self) -> None:
        return None

    def bytes(self, sample: int) -> memoryview:
        """Return the bytes of the sample's JPEG, or no bytes if its file can't be read any more."""
        row = self.index[sample]
        if row["length"]:
            start = int(row["offset"])
            return self._converted()[start : start + int(row["length"])]
        path = self.folder / self._paths[int(row["row"])]
        try:
            return memoryview(path.read_bytes())
        except OSError as error:
            if fault_of_machine(error):
                raise of_os(error, path, "try again") from error
            return memoryview(b"")  # no decoder accepts it, so it counts as a bad sample

    def locate(self, samples: NDArray[np.int64]) -> Located:
        """Read the JPEGs of `samples`, ids as int64 [n], into memory, and return their positions in it."""
        buffers = [self.bytes(sample) for sample in samples.tolist()]
        lengths = np.array([len(each) for each in buffers], np.uint64)
        return Located(buffers, np.arange(len(buffers), dtype=np.int32), np.zeros_like(lengths), lengths)

    def describe(self, sample: int) -> str:
        return f"{self.folder}/{self._paths[int(self.index['row'][sample])]}"

    def left_out(self) -> str:
        broken = self.manifest.counts["broken"]
        return f"left out: broken photographs {broken:,}" if broken else ""

    def _converted(self) -> memoryview:
        """Return the bytes of the file with the converted photographs, mapped into memory."""
        if self._prepared is None:
            with self._prepared_file.open("rb") as file:
                self._prepared = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._prepared


def open_photographs(folder: str | Path) -> PhotographFolder:
    """Open a folder of photographs for loaders, with the splits that `convert` draws by default.

    The first call for a folder reads the header of every file, and converts the photographs that can't be used
    unchanged into the cache. Raises UserError if there are no photographs.
    """
    folder = user_path(folder)
    if (folder / MANIFEST).exists() or not folder.is_dir():
        raise UserError(
            f"{folder}: convert=False works only with a folder of photographs; give one, or leave out convert"
        )
    source = open_source(folder)
    place = cache_root() / "photographs" / f"{source.name}-{source.local_state.removeprefix('sha256:')[:16]}"
    index_file = place / _INDEX_FILE
    if not index_file.exists():
        try:
            make_folder(place)
            _write_index(source, index_file)
        except OSError as error:
            raise of_os(error, place, "set FASTTRAIN_CACHE to a folder with room") from error
    index = np.load(index_file)
    if not len(index):
        raise UserError(f"{folder}: no photograph in it can be decoded; `fasttrain convert` lists the reasons")
    return PhotographFolder(folder, source, index, place / _PREPARED_FILE)


def _write_index(source: Source, index_file: Path) -> None:
    """Examine the photographs and write the index and the converted JPEGs."""
    settings, rows = ShardSettings(), range(len(source.paths))
    splits = decide_splits(source, settings.val_fraction, settings.test_fraction, settings.seed)
    budget = PixelBudget(pixels_that_fit())
    found: list[tuple[int, ...]] = []
    with atomic_folder(index_file) as folder, ThreadPoolExecutor() as threads:
        with (folder / _PREPARED_FILE).open("wb") as prepared:
            for start in range(0, len(rows), _AT_A_TIME):
                part = rows[start : start + _AT_A_TIME]
                results = threads.map(lambda row: budget.run(lambda hold: _examine(source, row, hold)), part)
                for row, result in zip(part, results, strict=True):
                    if isinstance(result, str):
                        log.warning("left out: %s: %s", source.root / source.paths[row], result)
                        continue
                    width, height, jpeg = result
                    where = (0, prepared.tell(), len(jpeg))
                    found.append((row, width, height, int(source.labels[row]), int(splits[row]), *where))
                    prepared.write(jpeg)
        np.save(folder / _INDEX_FILE, np.array(found, _INDEX))


def _examine(source: Source, row: int, hold: Hold) -> tuple[int, int, bytes] | str:
    """Return a photograph's width, height and converted JPEG, or the reason why it is broken.

    The JPEG is empty if the photograph can be read from its original file.
    """
    try:
        with (source.root / source.paths[row]).open("rb") as file:
            head = file.read(_HEAD)
            header = directly_decodable(head)
            if header is None or header.orientation != 1:
                with hold(pixels_of_file(source.size(row))):
                    data = head + file.read()
                    header = directly_decodable(data)
                    if header is None or header.orientation != 1:
                        photo = normalize(data, hold=hold)
                        return photo.width, photo.height, photo.jpeg
    except BrokenPhoto as error:
        return str(error)
    except OSError as error:
        if fault_of_machine(error):
            raise
        return error.strerror or str(error)
    return header.width, header.height, b""


def _restored(state: dict[str, Any]) -> PhotographFolder:
    """Return the folder with the attributes `state`, for unpickling."""
    restored = PhotographFolder.__new__(PhotographFolder)
    vars(restored).update(state)
    return restored
