"""Perceptual hashes are imagehash's, and no near pair is missed."""

from __future__ import annotations

import itertools

import imagehash
import numpy as np
import pytest
from PIL import Image

from fasttrain.inspection import thumbnails
from fasttrain.inspection.thumbnails import read_thumbnails
from fasttrain.photos.duplicates import find_duplicates, perceptual_hashes
from fasttrain.shards.reader import ShardSet


def hashes_of(shards: ShardSet) -> np.ndarray:
    read = list(read_thumbnails(shards, np.arange(len(shards)), workers=1))
    assert not any(each.bad for each in read)
    return perceptual_hashes(np.concatenate([each.pixels for each in read]))


def test_the_hashes_are_those_of_imagehash(shard_folder):
    shards = ShardSet.open(shard_folder)
    (read,) = read_thumbnails(shards, np.arange(60))
    expected = [int(str(imagehash.phash(Image.fromarray(pixels))), 16) for pixels in read.pixels]
    assert perceptual_hashes(read.pixels).tolist() == expected
    assert len(set(expected)) > 50


def test_hashes_hardly_depend_on_who_decodes(shard_folder, monkeypatch):
    shards = ShardSet.open(shard_folder)
    ours = hashes_of(shards)
    monkeypatch.setattr(thumbnails, "native_available", lambda: False)
    by_pillow = hashes_of(shards)
    apart = [bin(one ^ other).count("1") for one, other in zip(ours.tolist(), by_pillow.tolist(), strict=True)]
    assert max(apart) <= 4 and sum(apart) / len(apart) < 1


def planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """400 hashes: families at 0 to 7 bits from one another, and strangers; a split for each."""
    draw = np.random.default_rng(seed)
    hashes = []
    for parent in draw.integers(0, 1 << 63, 60, dtype=np.int64).tolist():
        hashes.append(parent)
        for _ in range(draw.integers(0, 7)):
            flipped = draw.choice(63, draw.integers(0, 6), replace=False).tolist()
            hashes.append(parent ^ sum(1 << bit for bit in flipped))
    hashes += draw.integers(0, 1 << 63, 400 - len(hashes), dtype=np.int64).tolist()
    return draw.permutation(np.array(hashes, np.uint64)), draw.integers(0, 3, 400)


@pytest.mark.parametrize("distance", [0, 1, 4, 7, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_near_pair_is_found_and_no_other(distance, seed):
    hashes, splits = planted(seed)
    plain = hashes.tolist()
    near = {
        (one, other): apart
        for one, other in itertools.combinations(range(len(plain)), 2)
        if (apart := bin(plain[one] ^ plain[other]).count("1")) <= distance
    }
    stands_for = [plain.index(value) for value in plain]  # the first with that hash ...
    for position, value in enumerate(plain):  # ... and in that split
        stands_for[position] = next(
            other for other in range(position + 1) if plain[other] == value and splits[other] == splits[position]
        )
    expected = {
        (one, other): apart
        for (one, other), apart in near.items()
        if (stands_for[one], stands_for[other]) == (one, other) or stands_for[other] == one
    }
    found = find_duplicates(hashes, splits, distance)
    assert dict(zip(map(tuple, found.pairs.tolist()), found.distances.tolist(), strict=True)) == expected
    assert len(found.pairs) == len(expected) and list(found.distances) == sorted(found.distances)
    leaked = {max(pair, key=lambda each: splits[each]) for pair in near if splits[pair[0]] != splits[pair[1]]}
    assert set(found.leaked.tolist()) == leaked


def test_a_thousand_copies_make_a_thousand_pairs():
    hashes = np.full(1000, 7, np.uint64)
    splits = np.repeat([0, 1], 500)
    found = find_duplicates(hashes, splits, 4)
    assert len(found.pairs) == 999 and (found.distances == 0).all()
    assert found.leaked.tolist() == list(range(500, 1000))


def test_none_at_all():
    found = find_duplicates(np.empty(0, np.uint64), np.empty(0, np.int64), 4)
    assert not len(found.pairs) and not len(found.leaked)
