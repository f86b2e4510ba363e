"""Options, photographs and results of the benchmarks. `pytest benchmarks/` runs all of them.

--short          only ours and the full decode, fewer rounds: for CI
--ratio-check    fails where a ratio to a full decode is over 40 % below the one in benchmarks/baseline.json
--ratio-save     writes benchmarks/baseline.json
--results DIR    where JSON, tables and pictures go (default: build/benchmarks)
--photographs    a folder of class folders ($FASTTRAIN_BENCH_PHOTOS); else some are made from Debian's backgrounds
                 (apt-get install mate-backgrounds gnome-backgrounds plasma-workspace-wallpapers), else drawn
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tools")]

from peers.process import ContenderProcess  # noqa: E402
from results import Results  # noqa: E402

SCRATCH = Path(os.environ.get("TMPDIR", "/tmp")) / "fasttrain-bench"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fasttrain")
    group.addoption("--short", action="store_true")
    group.addoption("--ratio-check", action="store_true")
    group.addoption("--ratio-save", action="store_true")
    group.addoption("--results", type=Path, default=Path("build/benchmarks"))
    group.addoption("--photographs", type=Path, default=os.environ.get("FASTTRAIN_BENCH_PHOTOS"))


@pytest.fixture(scope="session")
def short(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("short"))


@pytest.fixture(scope="session")
def made_photographs() -> Callable[[int, int], Path]:
    """(how many, longest side in px) to a folder of class folders, kept for the next time."""
    from make_photos import make_photos

    def make(count: int, size: int) -> Path:
        folder = SCRATCH / f"photographs-{count}-{size}"
        done = folder.with_suffix(".done")
        if not done.exists():
            if not make_photos(folder, classes=20, per_class=count // 20, size=size):
                pytest.skip("no backgrounds to make photographs from: see benchmarks/conftest.py")
            done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def photographs(
    pytestconfig: pytest.Config,
    short: bool,
    made_photographs: Callable[[int, int], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """About 2,000 photographs of at most 512 px; for --short the sample's 600, which any machine can draw."""
    if short:
        from fasttrain.photos.sample import draw_sample

        drawn = tmp_path_factory.mktemp("drawn") / "sample"
        draw_sample(drawn, per_class=100)
        return drawn
    if given := pytestconfig.getoption("photographs"):
        return Path(given)
    return made_photographs(2000, 512)


@pytest.fixture(scope="session")
def open_ones() -> list[ContenderProcess]:
    """The contenders that were started."""
    return []


@pytest.fixture(autouse=True)
def cold_queues(open_ones: list[ContenderProcess]) -> Iterator[None]:
    """Fail a benchmark in which an epoch began with photographs that were decoded before its clock ran."""
    yield
    for process in open_ones:
        process.require_cold()


@pytest.fixture(scope="session")
def contenders(
    tmp_path_factory: pytest.TempPathFactory, open_ones: list[ContenderProcess]
) -> Iterator[Callable[..., ContenderProcess | None]]:
    """(name, photographs, threads) to its process; None, and a line that says why, where the peer isn't installed."""
    root = tmp_path_factory.mktemp("contest")

    def start(name: str, photographs: Path, threads: int = 2) -> ContenderProcess | None:
        try:
            data = root / f"{photographs.parent.name}-{photographs.name}"
            open_ones.append(ContenderProcess(name, photographs, data, threads))
        except ImportError as error:
            print(f"\nleft out: {error}")
            return None
        return open_ones[-1]

    yield start
    for process in open_ones:
        process.close()


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    return Results(pytestconfig.getoption("results"))


@pytest.fixture(scope="session")
def shards(photographs: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The photographs converted, with `.beton` files."""
    from fasttrain.shards.convert import convert
    from fasttrain.shards.reader import ShardSet

    out = tmp_path_factory.mktemp("shards") / "bench"
    convert(str(photographs), out, progress=False, format="tar,beton")
    return ShardSet.open(out)
