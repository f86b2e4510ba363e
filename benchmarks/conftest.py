"""The photographs that benchmarks run on: $FASTTRAIN_BENCH_PHOTOS, else made from Debian's backgrounds, else drawn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders; about 2,000 photographs of at most 512 px."""
    from make_photos import make_photos

    if given := os.environ.get("FASTTRAIN_BENCH_PHOTOS"):
        return Path(given)
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / "fasttrain-bench-photos"
    if folder.is_dir() or make_photos(folder, classes=20, per_class=100):
        return folder
    from fasttrain.photos.sample import draw_sample

    drawn = tmp_path_factory.mktemp("drawn")
    draw_sample(drawn, per_class=100)
    return drawn


@pytest.fixture(scope="session")
def shards(photographs: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The photographs converted, with `.beton` files."""
    from fasttrain.shards.convert import convert
    from fasttrain.shards.reader import ShardSet

    out = tmp_path_factory.mktemp("shards") / "bench"
    convert(str(photographs), out, progress=False, format="tar,beton")
    return ShardSet.open(out)
