"""A small data set, drawn and converted once for the whole session."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders: 6 classes of the sample, 16 photographs each."""
    from fasttrain.photos.sample import draw_sample

    folder = tmp_path_factory.mktemp("photographs") / "sample"
    draw_sample(folder, per_class=16)
    return folder


@pytest.fixture(scope="session")
def shard_folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted to shards."""
    from fasttrain.shards.convert import convert

    out = tmp_path_factory.mktemp("shards") / "sample"
    convert(str(photographs), out, workers=1, progress=False, shard_size=40, format="tar,beton")
    return out
