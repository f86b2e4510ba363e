"""A `ShardSet` is read by several threads at a time: a loader's, and the one that compares checksums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fasttrain.shards import reader
from fasttrain.shards.reader import ShardSet


def test_threads_that_unmap_each_others_shards(shard_folder, monkeypatch):
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    shards = ShardSet.open(shard_folder)
    samples = range(0, len(shards), 5)
    assert len(set(shards.index["shard"][list(samples)].tolist())) > 1
    expected = [bytes(shards.bytes(sample)) for sample in samples]

    def read(turn: int) -> bool:
        order = list(range(len(expected)))[:: 1 if turn % 2 else -1]
        return all(bytes(shards.bytes(samples[at])) == expected[at] for at in order)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(300)))
