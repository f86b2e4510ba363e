"""`convert --append`: find the new photographs of a source and add them to existing shards.

Existing files are not rewritten. New photographs go to new shards, and the index and the lists are written under new
names (see `format.numbered`). The manifest, which names the current files, is replaced last.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.photos.label_bits import bytes_for, members, packed, widened
from fasttrain.photos.source import UNDECIDED, VAL, Source, few
from fasttrain.shards.assemble import index_of, list_line, require_training
from fasttrain.shards.destination import Destination
from fasttrain.shards.extra_labels import extra_lines
from fasttrain.shards.format import (
    APPENDED,
    CONFLICTS,
    CONVERTED,
    DUPLICATES,
    EXTRA,
    INDEX,
    MANIFEST,
    REJECTED,
    SPLIT_FILE,
    SPLITS,
    IndexSummary,
    Manifest,
    index_dtype,
    numbered,
)
from fasttrain.shards.keys import make_keys
from fasttrain.shards.label_conflicts import find_label_conflicts
from fasttrain.shards.layout import SHARD_NAME, Earlier, ShardJob, duplicates_table, splits_of, table_of
from fasttrain.shards.parts import Part, read_parts
from fasttrain.shards.reader import ShardSet
from fasttrain.shards.settings import ADDED, ShardSettings
from fasttrain.shards.workplace import require_manifest

_GONE = "not in the source any more: the shards keep the photograph"
_KEPT = "the shards keep the earlier version"


@dataclass(frozen=True)
class Addition:
    """The photographs of a source that the shards lack, and what the shards held before.

    - `base`: the manifest before the append.
    - `fingerprint`: the shards' fingerprint before the append; see `ShardSet`.
    - `index`: the shards' index before the append.
    - `source`: the source. Its classes are those of the shards, followed by the new ones.
    - `earlier`: which of the source's photographs are to be added, the split of each of the others, and the numbers of
      the first new shards.
    - `keys`: the key (the name in the shards) of each photograph of the source.
    - `known`: for the path of each photograph of earlier conversions, its split and its size in bytes. The size is -1
      if it was not recorded.
    - `kept`: (path, reason) of each photograph that has changed or disappeared since its conversion. The shards keep
      its earlier version.
    """

    base: Manifest
    fingerprint: str
    index: NDArray[np.void]
    source: Source
    earlier: Earlier
    keys: list[str]
    known: dict[str, tuple[int, int]]
    kept: list[tuple[str, str]]

    def notes(self) -> list[str]:
        """Return messages for the user about new classes and changed or missing photographs."""
        new = self.source.classes[len(self.base.classes) :]
        gone = [path for path, reason in self.kept if reason == _GONE]
        changed = [path for path, reason in self.kept if reason != _GONE]
        found = {
            "new classes, added after the others": new,
            "not in the source any more, kept in the shards": gone,
            "changed since they were converted, kept unchanged": changed,
        }
        return [f"{change}: {len(names):,} ({few(names)})" for change, names in found.items() if names]


def plan_addition(out: Destination, source: Source, settings: ShardSettings, *, strict: bool) -> Addition:
    """Compare `source` with the shards in `out` and return the photographs to add.

    Raises UserError if the shards were made with other settings, if they lack the list of their photographs
    (`splits.csv`), if they share no class with the source, or if only one of the two is multi-label. With `strict`, a
    photograph that has changed or disappeared since its conversion raises UserError instead of being noted in `kept`.
    """
    shards = ShardSet.open(out.location)
    base = shards.manifest
    _require_same(out, base, settings)
    known = _read_known(out, base)
    classes = (*base.classes, *(name for name in source.classes if name not in base.classes))
    if not set(source.classes) & set(base.classes):
        raise UserError(
            f"--source {source.root} has none of the classes of {out} ({few(base.classes)}); give the folder or table "
            "that the shards were made from, with more photographs"
        )
    if source.multi_label != base.multi_label:
        theirs, fix = ("several classes", "--multi-label") if base.multi_label else ("one class", "--no-multi-label")
        raise UserError(f"{out} has {theirs} per photograph, but --source {source.root} does not; give {fix}")
    position = np.array([classes.index(name) for name in source.classes], np.int32)
    if source.multi_label:
        sets = [position[members(each)].tolist() for each in source.labels]
        labels: NDArray[Any] = packed(sets, len(classes))
    else:
        labels = position[source.labels]
    source = replace(source, classes=classes, labels=labels)
    paths = [
        *known,
        *(each for each in source.paths if each not in known),
    ]  # known paths come first, so that their photographs keep their keys
    keys = dict(zip(paths, make_keys(paths), strict=True))
    column = widened(shards.index["labels"], len(classes)) if base.multi_label else shards.index["label"]
    label_of = dict(zip((key.decode() for key in shards.index["key"]), column.tolist(), strict=True))
    held = np.full(len(source.paths), UNDECIDED, np.int8)
    added = np.ones(len(source.paths), np.bool_)
    kept = [(path, _GONE) for path in known.keys() - set(source.paths) if keys[path] in label_of]
    for row, path in enumerate(source.paths):
        if path not in known:
            continue
        held[row], size = known[path]
        other_size = -1 not in (size, int(source.sizes[row])) and size != source.sizes[row]
        if (label := label_of.get(keys[path])) is None:
            added[row] = other_size  # it was broken before, and may be intact now
            continue
        added[row] = False
        if other_size:
            kept.append((path, f"{source.sizes[row]:,} bytes now, {size:,} bytes when it was converted: {_KEPT}"))
        elif label != labels[row].tolist():
            ours, theirs = (_named(each, classes) for each in (labels[row].tolist(), label))
            kept.append((path, f"of class {ours!r} now, of class {theirs!r} in the shards: {_KEPT}"))
        elif source.splits[row] >= VAL and source.splits[row] != held[row]:
            kept.append((path, f"in {SPLITS[source.splits[row]]} now, in {SPLITS[held[row]]} in the shards: {_KEPT}"))
    ordered = [keys[path] for path in source.paths]
    stored_lines, reported = _extra_of(out, base), {path for path, _ in kept}
    for row, line in enumerate(extra_lines(source, ordered)) if stored_lines else ():
        differs = ordered[row] in label_of and stored_lines.get(ordered[row], line) != line
        if differs and source.paths[row] not in reported:
            kept.append((source.paths[row], f"other extra labels than when it was converted: {_KEPT}"))
    if strict and kept:
        path, reason = min(kept)
        raise UserError(f"{source.root / path}: {reason}; convert again with --overwrite, or leave out --strict")
    earlier = Earlier(held, added, _first_numbers(base))
    return Addition(base, shards.fingerprint, shards.index, source, earlier, ordered, known, sorted(kept))


def write_addition(
    out: Destination, addition: Addition, parts: list[tuple[ShardJob, Part]], settings: dict[str, Any]
) -> Manifest:
    """Write the index and the lists of the extended shards, then replace the manifest. Return the new manifest.

    `parts` are the new shards, and `settings` those of this append. Raises UserError if a new class has no usable
    training photograph, or if another machine has written to the same bucket in the meantime. Raises OSError if the
    disk can't be written.
    """
    base, source = addition.base, addition.source
    appends = base.appends + 1
    kept = [(job, part) for job, part in parts if part.keys]
    broken = [rejected for _, part in parts for rejected in part.broken]
    files = {name: digest for name, digest in base.files.items() if name.endswith(".idx")}

    def write(name: str, data: bytes) -> None:
        out.write(numbered(name, appends), data)
        files[numbered(name, appends)] = hashlib.sha256(data).hexdigest()

    rejected = sorted(list_line(*each) for each in (*source.ignored, *broken, *addition.kept))
    write(REJECTED, b"".join(sorted({*rejected, *_still_broken(out, addition)})))
    trained = addition.index[addition.index["split"] == 0]
    if base.multi_label:
        old_labels = set(members(np.bitwise_or.reduce(trained["labels"], axis=0)))
    else:
        old_labels = set(trained["label"].tolist())
    require_training(f"{out}/{numbered(REJECTED, appends)}", source.classes, kept, dict(broken), old_labels)
    changed = _lines(out, base, CONVERTED) + [list_line(*each) for _, part in kept for each in part.changed]
    if changed:
        write(CONVERTED, b"".join(sorted(changed)))
    splits = splits_of(source, [job for job, _ in parts], addition.earlier.held)
    split_file = table_of(("path", "split", "bytes"), _split_rows(addition, splits))
    write(SPLIT_FILE, split_file)
    if source.near_duplicates:
        write(DUPLICATES, duplicates_table(source, splits))
    extra = _extra_of(out, base)
    for row, line in enumerate(extra_lines(source, addition.keys)):
        if addition.earlier.added[row]:
            extra[addition.keys[row]] = line
    if extra:
        write(EXTRA, b"".join(extra.values()))
    files |= {f"{job.name}.idx": part.index_sha256 for job, part in kept}
    set_bytes = bytes_for(len(source.classes)) if base.multi_label else 0
    index = _joined(addition.index, index_of(kept, set_bytes), len(base.shards), set_bytes)
    shards = [*base.shards, *(part.shard(job) for job, part in kept)]
    if conflicts := find_label_conflicts(out, index, [shard.name for shard in shards], source.classes, split_file):
        write(CONFLICTS, b"".join(list_line(*each) for each in conflicts))
    file = io.BytesIO()
    np.save(file, index)
    out.write(numbered(INDEX, appends), file.getvalue())
    added = sum(len(part.keys) for _, part in kept)
    gone = sum(reason == _GONE for _, reason in addition.kept)
    record = {
        "photographs": added,
        "broken": len(broken),
        "changed": len(addition.kept) - gone,
        "missing": gone,
        "to": addition.fingerprint,
        "fasttrain": settings["fasttrain"],
    }
    how = sum((Counter(part.counts) for _, part in kept), Counter())
    totals = {"photos": len({*addition.known, *source.paths}), "stored": len(index), "ignored": len(source.ignored)}
    totals["broken"] = totals["photos"] - len(index)
    counts = {name: totals.get(name, base.counts.get(name, 0) + how[name]) for name in {**base.counts, **how}}
    manifest = base.model_copy(
        update={
            "classes": list(source.classes),
            "splits": {split: int((index["split"] == number).sum()) for number, split in enumerate(SPLITS)},
            "source": base.source.model_copy(update={"fingerprint": source.fingerprint, "name": source.name}),
            "shards": shards,
            "index": IndexSummary(
                sha256=hashlib.sha256(file.getvalue()).hexdigest(), samples=len(index), name=numbered(INDEX, appends)
            ),
            "settings": {**settings, **_first_settings(base), APPENDED: [*base.settings.get(APPENDED, []), record]},
            "counts": counts,
            "files": files,
        }
    )
    _require_alone(out, addition, parts)
    out.write(MANIFEST, manifest.to_bytes())
    return manifest


def _require_alone(out: Destination, addition: Addition, parts: list[tuple[ShardJob, Part]]) -> None:
    """Raise UserError if another machine has changed the manifest or the shards just written."""
    require_manifest(out, addition.base)
    if any(there is None for _, there in read_parts(out, [job for job, _ in parts])):
        raise UserError(f"{out}: another machine has written there in the meantime; run the same command again")


def _require_same(out: Destination, base: Manifest, settings: ShardSettings) -> None:
    """Raise UserError if `settings` differ from those of the shards in `out`."""
    ours = {**ADDED, **settings.recorded()}
    theirs = {**ADDED, **base.settings}
    names = [name for name in ShardSettings.__dataclass_fields__ if theirs.get(name) != ours[name]]
    if names:
        differ = "; ".join(f"{name} = {theirs.get(name)}, not {ours[name]}" for name in names)
        raise UserError(f"{out} was converted with other settings ({differ}); use the same settings with --append")


def _read_known(out: Destination, base: Manifest) -> dict[str, tuple[int, int]]:
    """Return the split and the size in bytes of each photograph by its path, in the order in which they were added.

    A size of -1 was not recorded.
    """
    name = base.current(SPLIT_FILE)
    if name not in base.files:
        raise UserError(f"{out} has no list of its photographs ({name}); convert again with --overwrite")
    data = out.read(name)
    if hashlib.sha256(data).hexdigest() != base.files[name]:
        raise UserError(f"{out}/{name}: its bytes have changed since it was written; copy it again")
    rows = csv.DictReader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""))
    return {row["path"]: (SPLITS.index(row["split"]), int(row.get("bytes") or -1)) for row in rows}


def _first_settings(base: Manifest) -> dict[str, Any]:
    """Return the settings of the first conversion, which an append keeps."""
    names = (*ShardSettings.__dataclass_fields__, "fasttrain")
    return {name: base.settings[name] for name in names if name in base.settings}


def _first_numbers(base: Manifest) -> tuple[int, ...]:
    """Return the number of the first new shard of each split."""
    first = [0] * len(SPLITS)
    for shard in base.shards:
        name = shard.name.removesuffix(".tar")
        if SHARD_NAME.fullmatch(name):
            split = SPLITS.index(shard.split)
            first[split] = max(first[split], int(name.rpartition("-")[2]) + 1)
    return tuple(first)


def _still_broken(out: Destination, addition: Addition) -> list[bytes]:
    """Return the lines of the earlier `rejected.tsv` about photographs that are neither stored nor tried again."""
    source, earlier = addition.source, addition.earlier
    stored = set(addition.index["key"].tolist())
    left = (
        list_line(path, "")
        for path, key, added in zip(source.paths, addition.keys, earlier.added.tolist(), strict=True)
        if path in addition.known and not added and key.encode() not in stored
    )
    starts = {line.rstrip(b"\n") for line in left}
    return [line for line in _lines(out, addition.base, REJECTED) if line[: line.index(b"\t") + 1] in starts]


def _extra_of(out: Destination, base: Manifest) -> dict[str, bytes]:
    """Return the earlier lines of `extra_labels.jsonl` by the keys of their photographs."""
    return {json.loads(line)["key"]: line for line in _lines(out, base, EXTRA)}


def _lines(out: Destination, base: Manifest, name: str) -> list[bytes]:
    """Return the lines of the current version of a list, or no lines if there is no such list."""
    current = base.current(name)
    return out.read(current).splitlines(keepends=True) if current in base.files else []


def _split_rows(addition: Addition, splits: NDArray[np.int8]) -> list[tuple[str, str, int]]:
    """Return the rows of `splits.csv`: path, split and size in bytes of each photograph.

    Known photographs come first and keep their order, because the order decides the keys.
    """
    rows = {path: (SPLITS[split], size) for path, (split, size) in addition.known.items()}
    for row in np.flatnonzero(addition.earlier.added).tolist():
        rows[addition.source.paths[row]] = SPLITS[splits[row]], int(addition.source.sizes[row])
    return [(path, split, size) for path, (split, size) in rows.items()]


def _named(label: int | list[int], classes: Sequence[str]) -> str:
    """Return the name of the class `label`, or the names of the classes in a set of classes.

    `label` is a class number, or a list with the bytes of a set as in `label_bits.packed`. An empty set gives "none".
    """
    if isinstance(label, int):
        return classes[label]
    return ", ".join(classes[each] for each in members(np.array(label, np.uint8))) or "none"


def _joined(old: NDArray[np.void], new: NDArray[np.void], shards: int, set_bytes: int) -> NDArray[np.void]:
    """Return an index with the rows of `old` and `new`. The shard numbers in `new` are increased by `shards`.

    `set_bytes` is the argument of `index_dtype`.
    """
    longest = max(old.dtype["key"].itemsize, new.dtype["key"].itemsize)
    index = np.zeros(len(old) + len(new), index_dtype(longest, set_bytes))
    for name in new.dtype.names or ():
        index[name][: len(old)] = widened(old[name], 8 * set_bytes) if name == "labels" else old[name]
        index[name][len(old) :] = new[name] + shards if name == "shard" else new[name]
    return index
