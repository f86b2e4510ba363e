"""`inspect`: find out what shards contain, which photographs are duplicates, and what is broken."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import is_url
from fasttrain.config.values import CacheSize
from fasttrain.errors import UserError
from fasttrain.inspection.findings import (
    LISTED_PAIRS,
    BrokenSample,
    Cardinality,
    DuplicatePair,
    DuplicatesFound,
    Inspection,
    SampleName,
    Spread,
)
from fasttrain.inspection.header import jpeg_header
from fasttrain.inspection.thumbnails import read_thumbnails
from fasttrain.photos.duplicates import find_duplicates, perceptual_hashes
from fasttrain.shards.beton import verify_betons
from fasttrain.shards.checksum import CHANGED, crc32
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.format import REJECTED, SPLITS, Manifest, class_names
from fasttrain.shards.reader import LocalFiles, ShardSet
from fasttrain.terminal import bar, make_console
from fasttrain.text import counted


def inspect(
    data: str | Path = "shards",
    *,
    verify: bool = False,
    duplicates: bool = True,
    distance: int = 4,
    workers: int | None = None,
    cache_size: str | CacheSize | None = None,
    progress: bool = True,
) -> Inspection:
    """Inspect the shards in `data`: a folder, a URL, or a folder of photographs, which is converted first.

    `verify`: compare every checksum, and list the shards that are missing or truncated in the result's `problems`.
    `duplicates`: decode each photograph to 32 x 32 pixels, and find pairs whose perceptual hashes differ in at most
    `distance` of 64 bits (0 to 16). Without `duplicates` and `verify` only headers are read. `workers`: number of
    threads, by default one per core. `cache_size`: most disk space for shards downloaded from a URL, such as "50GB".
    `progress`: show progress bars.

    Raises UserError if there are no shards, or if `verify` is False and a shard is missing or truncated.
    """
    if not 0 <= distance <= 16:
        raise UserError(f"distance = {distance} is out of range: give 0 to 16 of the hash's 64 bits, usually 4")
    limit = CacheSize.of(cache_size)
    start = time.monotonic()
    location = ensure_shards(data)
    if is_url(location):
        shards = ShardSet.open(location, limit)
    else:
        shards = ShardSet((_Unchecked if verify else _Changed)(Path(location)))
    inspection = _of_manifest(shards)
    with _progress(progress) as track:
        if verify:
            with track(
                "checksums", inspection.shard_bytes + shards.files.path(shards.manifest.index.name).stat().st_size
            ) as advance:
                inspection.problems += shards.verify(advance)
            if not shards.remote:
                inspection.problems += verify_betons(shards)
        with track("photographs", len(shards)) as advance:
            decode = verify or duplicates
            hashes, intact = _read(shards, inspection, decode=decode, verify=verify, workers=workers, advance=advance)
    inspection.decoded, inspection.verified = verify or duplicates, verify
    if duplicates:
        inspection.duplicates = _duplicates(shards, hashes[intact], intact, distance)
    inspection.seconds = time.monotonic() - start
    return inspection


class _Changed(LocalFiles):
    """Opens shards even if the index has changed since it was written, so that its problems can be listed."""

    index_must_match = False


class _Unchecked(_Changed):
    """Opens shards even if some are missing or truncated, so that `verify` can list all of them."""

    def check(self, manifest: Manifest) -> None:
        pass


def _of_manifest(shards: ShardSet) -> Inspection:
    """Return the facts from the manifest, the index and `rejected.tsv`, without reading the shards."""
    manifest, index = shards.manifest, shards.index
    splits: dict[str, dict[str, int]] = {}
    split_bytes: dict[str, int] = {}
    for split in SPLITS:
        rows = index[shards.ids(split)]
        splits[split] = dict(zip(shards.classes, shards.class_counts(split).tolist(), strict=True))
        split_bytes[split] = int(rows["length"].sum(dtype=np.int64))
    width, height, length = (Spread.of(index[name]) if len(index) else None for name in ("width", "height", "length"))
    betons = [] if shards.remote else list(shards.folder.glob("*.beton"))
    return Inspection(
        location=str(shards.location),
        source=manifest.source.name,
        raw=shards.raw,
        settings=dict(manifest.settings),
        counts=dict(manifest.counts),
        classes=shards.classes,
        splits=splits,
        split_samples={split: len(shards.ids(split)) for split in SPLITS},
        split_bytes=split_bytes,
        shards=len(manifest.shards),
        shard_bytes=sum(shard.bytes for shard in manifest.shards),
        beton_bytes=sum(path.stat().st_size for path in betons),
        width=width,
        height=height,
        length=length,
        rejected=_rejected(shards),
        cardinality=_cardinality(shards),
    )


def _cardinality(shards: ShardSet) -> Cardinality | None:
    if not shards.multi_label or not len(shards):
        return None
    counts = np.unpackbits(shards.index["labels"], axis=1).sum(1)
    return Cardinality(float(counts.mean()), int(counts.min()), int(counts.max()), int((counts == 0).sum()))


def _rejected(shards: ShardSet) -> dict[str, int]:
    """Return how many files were left out for each reason. Empty for shards behind a URL."""
    path = shards.folder / shards.manifest.current(REJECTED)
    if shards.remote or not path.is_file():
        return {}
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return dict(Counter(line.partition("\t")[2] for line in lines).most_common())


def _read(
    shards: ShardSet,
    inspection: Inspection,
    *,
    decode: bool,
    verify: bool,
    workers: int | None,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Read the samples, and add what is found to `inspection`.

    Return the perceptual hash of every sample, uint64 [N], and the ids of the intact samples, int64 [n].
    """
    hashes, is_intact = np.zeros(len(shards), np.uint64), np.zeros(len(shards), np.bool_)
    shard_of = shards.index["shard"].astype(np.int64)
    order = np.argsort(shard_of, kind="stable")
    for ids in np.split(order, np.flatnonzero(np.diff(shard_of[order])) + 1) if len(order) else ():
        shard = shards.manifest.shards[shard_of[ids[0]]].name
        readable, problem = _readable(shards, ids, shard)
        if problem:  # this is more precise than the checksum
            inspection.problems = [each for each in inspection.problems if shard not in each] + [problem]
        bad = _changed(shards, readable) if verify else {}
        bad |= _headers(shards, readable[~np.isin(readable, list(bad))], inspection)
        intact = readable[~np.isin(readable, list(bad))]
        for thumbnails in read_thumbnails(shards, intact, workers) if decode else ():
            hashes[thumbnails.ids] = perceptual_hashes(thumbnails.pixels)
            is_intact[thumbnails.ids] = True
            bad |= {int(thumbnails.ids[position]): reason for position, reason in thumbnails.bad}
            advance(len(thumbnails.ids))
        if not decode:
            advance(len(ids))
        is_intact[list(bad)] = False
        inspection.broken += [
            BrokenSample(_name(shards, sample), shard, reason) for sample, reason in sorted(bad.items())
        ]
    return hashes, np.flatnonzero(is_intact)


def _readable(shards: ShardSet, ids: NDArray[np.int64], shard: str) -> tuple[NDArray[np.int64], str]:
    """Return the samples among `ids` whose bytes exist in their shard, and a message if some are missing.

    All `ids`, int64 [n], are samples of the one shard.
    """
    none = ids[:0]
    try:
        size = int(shards.locate_shards([int(shards.index["shard"][ids[0]])]).lengths[0])
    except UserError as error:
        return none, str(error)
    except (OSError, ValueError) as error:  # ValueError: mmap refuses an empty file
        reason = getattr(error, "strerror", None) or error
        return none, f"{shards.location}/{shard}: can't be read ({reason}); copy it again"
    rows = shards.index[ids]
    exists = rows["offset"].astype(np.int64) + rows["length"].astype(np.int64) <= size
    if exists.all():
        return ids, ""
    lost = int((~exists).sum())
    return ids[exists], (
        f"{shards.location}/{shard}: the file is truncated and lacks {lost:,} of its "
        f"{counted(len(ids), 'photograph')}; copy it again"
    )


def _changed(shards: ShardSet, ids: NDArray[np.int64]) -> dict[int, str]:
    """Return the samples whose checksum is wrong, with the reason. This locates the damage in a damaged shard."""
    crc32s = shards.crc32s()
    if crc32s is None:
        return {}
    return {sample: CHANGED for sample in ids.tolist() if crc32(shards.bytes(sample)) != crc32s[sample]}


def _headers(shards: ShardSet, ids: NDArray[np.int64], inspection: Inspection) -> dict[int, str]:
    """Count the types of JPEGs in `inspection`. Return the samples with an invalid header, with the reasons."""
    if shards.raw:
        return {}
    sampling: Counter[str] = Counter(inspection.sampling)
    bad = {}
    sizes = shards.sizes()[ids].tolist()
    for sample, (height, width) in zip(ids.tolist(), sizes, strict=True):
        try:
            header = jpeg_header(shards.bytes(sample))
        except ValueError as error:
            bad[sample] = str(error)
            continue
        if (header.width, header.height) != (width, height):
            listed = f"{shards.manifest.index.name} lists {width}x{height}"
            bad[sample] = f"is {header.width}x{header.height} px, but {listed}"
        sampling[header.sampling] += 1
        inspection.progressive += header.progressive
    inspection.sampling = dict(sampling.most_common())
    return bad


def _duplicates(shards: ShardSet, hashes: NDArray[np.uint64], ids: NDArray[np.int64], distance: int) -> DuplicatesFound:
    splits = shards.index["split"][ids].astype(np.int64)
    labels = shards.index["labels" if shards.multi_label else "label"][ids].reshape(len(ids), -1)
    found = find_duplicates(hashes, splits, distance)
    first, second = found.pairs.T
    across = splits[first] != splits[second]
    listed = np.lexsort((found.distances, ~across))[:LISTED_PAIRS]
    pairs = [
        DuplicatePair(
            _name(shards, one), _name(shards, other), apart, not apart and shards.bytes(one) == shards.bytes(other)
        )
        for (one, other), apart in zip(ids[found.pairs[listed]].tolist(), found.distances[listed].tolist(), strict=True)
    ]
    leaked = np.bincount(splits[found.leaked], minlength=len(SPLITS)).tolist()
    return DuplicatesFound(
        distance,
        len(found.pairs),
        int(across.sum()),
        int((labels[first] != labels[second]).any(1).sum()),
        dict(zip(SPLITS[1:], leaked[1:], strict=True)),
        pairs,
    )


def _name(shards: ShardSet, sample: int) -> SampleName:
    row = shards.index[sample]
    return SampleName(sample, row["key"].decode(), SPLITS[row["split"]], class_names(row, shards.classes))


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, int], AbstractContextManager[Callable[[int], None]]]]:
    """Yield `track(title, total)`, a context manager that shows a progress bar and yields `advance(count)`.

    Bars are only shown in a terminal, and disappear when they are done.
    """
    bars = bar(make_console(stderr=True, quiet=not shown))

    @contextmanager
    def track(title: str, total: int) -> Iterator[Callable[[int], None]]:
        task = bars.add_task(title, total=total)
        yield lambda count: bars.advance(task, count)
        bars.remove_task(task)

    with bars:
        yield track
