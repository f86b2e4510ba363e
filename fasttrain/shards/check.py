"""Check an index before its numbers are used, and the members of a shard.

Shards may come from an untrusted source. An offset beyond the end of a file would make a loader read other memory, a
label beyond the classes would make it write to other memory, and a photograph that claims to be small could take all
memory when it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fasttrain.photos.label_bits import bytes_for, unpacked
from fasttrain.photos.normalize import MAX_PIXELS
from fasttrain.shards.format import SPLITS, Manifest, index_dtype, label_in
from fasttrain.shards.tar import BLOCK, label_member, member_header, npy_header, size_of_shard
from fasttrain.text import counted

_IN_KEYS = np.zeros(256, np.bool_)
_IN_KEYS[[0, *b"%/-_~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]] = True
_ROWS = 1 << 16  # checked at a time, so that the check of a large index needs little memory


def index_problem(index: NDArray[np.void], manifest: Manifest) -> str | None:
    """Return why `index`, an array of any dtype, does not match `manifest`, or None if it does."""
    if not _is_index(index, manifest):
        return "it isn't an index of shards"
    expected = manifest.index.samples
    if len(index) != expected or expected != sum(shard.samples for shard in manifest.shards):
        return f"it has {counted(len(index), 'row')}, but the manifest says {expected:,}"
    shards = manifest.shards
    counts = np.zeros(len(shards), np.int64)
    sizes = np.array([shard.bytes for shard in shards], object).clip(max=1 << 62).astype(np.uint64)
    split_of = np.array([SPLITS.index(shard.split) for shard in shards], np.uint8)
    for start in range(0, len(index), _ROWS):
        rows = index[start : start + _ROWS]
        shard, length = rows["shard"], rows["length"].astype(np.uint64)
        if shard.max(initial=0) >= len(shards):
            return "it refers to shards that the manifest doesn't name"
        if _labels_beyond(rows, len(manifest.classes), multi_label=manifest.multi_label):
            return "it has labels beyond the classes"
        if (rows["split"] != split_of[shard]).any():
            return "it has samples in another split than their shard"
        if (length > sizes[shard]).any() or (rows["offset"] > sizes[shard] - np.minimum(length, sizes[shard])).any():
            return "it has samples outside of their shard"
        width, height = rows["width"].astype(np.uint64), rows["height"].astype(np.uint64)
        if not length.all() or not width.all() or not height.all():
            return "it has photographs without a size"
        if (width * height > MAX_PIXELS).any():
            return f"it has photographs of more than {MAX_PIXELS:,} pixels"
        if not _keys_are_plain(rows["key"]):
            return "it has keys that `convert` never writes"
        counts += np.bincount(shard, minlength=len(shards))
    if (counts != [each.samples for each in shards]).any():
        return "it has other numbers of samples per shard than the manifest"
    return "it has samples that overlap" if _overlap(index) else None


def _labels_beyond(rows: NDArray[np.void], classes: int, *, multi_label: bool) -> bool:
    """Return whether a label in `rows` is not one of the classes."""
    if multi_label:
        return bool(unpacked(rows["labels"], 8 * bytes_for(classes))[:, classes:].any())
    return bool(rows["label"].min() < 0 or rows["label"].max() >= classes)


def members_problem(shard: memoryview, rows: NDArray[np.void], raw: bool) -> str | None:
    """Return why the tar in `shard` is not what `convert` writes for the samples `rows`, or None if it is.

    Every header is compared. So links, devices, absolute names, `..` and sizes beyond the file are all refused.
    """
    at = 0
    for row in rows[np.argsort(rows["offset"], kind="stable")]:
        key = row["key"].decode()
        kind, text = label_member(label_in(row))
        for name, head, length in _members(key, row, raw):
            found = shard[at : at + BLOCK + len(head)]
            if found != member_header(name, len(head) + length) + head:
                return f"its member at byte {at:,} is not {name}"
            data = at + BLOCK + len(head)
            if not head and name == f"{key}.{kind}":
                if shard[data : data + length] != text:
                    return f"{name} holds another label than the index"
            elif data != int(row["offset"]):
                return f"{name} is not where the index says"
            at = data + length + -(len(head) + length) % BLOCK
    if len(shard) != size_of_shard(at) or any(shard[at:]):
        return f"it holds more than the samples in the index, from byte {at:,} on"
    return None


def _members(key: str, row: np.void, raw: bool) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, bytes before the data, length of the data) of the two members of a sample."""
    head = npy_header(int(row["height"]), int(row["width"])) if raw else b""
    yield f"{key}.npy" if raw else f"{key}.jpg", head, int(row["length"])
    kind, text = label_member(label_in(row))
    yield f"{key}.{kind}", b"", len(text)


def _is_index(index: NDArray[np.void], manifest: Manifest) -> bool:
    """Return whether the array has the fields of an index."""
    if index.ndim != 1 or index.dtype.names is None or index.dtype.names[0] != "key":
        return False
    key = index.dtype["key"]
    if key.kind != "S":
        return False
    columns = index_dtype(key.itemsize, bytes_for(len(manifest.classes)) if manifest.multi_label else 0).descr
    return index.dtype.descr in (columns, columns[:-1])


def _keys_are_plain(keys: NDArray[np.bytes_]) -> bool:
    """Return whether all keys are as `make_keys` makes them: relative, percent-quoted ASCII without a dot, padded with
    NULs."""
    letters = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), -1)
    first = letters[:, 0]
    inside = (letters[:, 1:] == 0) | (letters[:, :-1] != 0)
    return bool(_IN_KEYS[letters].all() and inside.all() and first.all() and (first != ord("/")).all())


def _overlap(index: NDArray[np.void]) -> bool:
    """Return whether the bytes of two samples overlap."""
    offset, shard = index["offset"], index["shard"]
    order = np.lexsort((offset, shard))
    first, second = order[:-1], order[1:]
    end = offset[first] + index["length"][first]
    return bool(((shard[first] == shard[second]) & (offset[second] < end)).any())
