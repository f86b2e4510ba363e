"""The example of docs/examples: DALI's own reader takes our tars."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from fasttrain.shards.reader import ShardSet

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "dali_webdataset.py"


def test_dalis_webdataset_reader_reads_every_label(shard_folder):
    pytest.importorskip("nvidia.dali")
    spec = importlib.util.spec_from_file_location("dali_webdataset", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    shards = ShardSet.open(shard_folder)
    ids = shards.ids("train")
    pipeline = example.training_pipeline(
        Path(shard_folder),
        size=32,
        decoder="cpu",
        batch_size=len(ids),
        num_threads=1,
        device_id=None,
        exec_dynamic=True,
    )
    images, text = pipeline.run()
    assert images.as_array().shape == (len(ids), 32, 32, 3)
    assert Counter(example.labels_of(text)) == Counter(shards.labels()[ids].tolist())
