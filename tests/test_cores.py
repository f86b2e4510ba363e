"""How many cores there are: affinity, a container's quota, and what other programs leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain import cgroups, cores

PINNED = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
from fasttrain.cores import busy_cores_warning
print(busy_cores_warning())
"""


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """Make the quotas of this process: file's path below the root of the cgroups -> text."""

    def write(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    real = Path
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "Path", lambda path: tmp_path / "own" if path == "/proc/self/cgroup" else real(path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return write


def test_cores_are_counted_without_an_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    monkeypatch.setattr(cores, "_quotas", list)
    assert cores.usable_cores() == 3
    monkeypatch.delattr(os, "process_cpu_count")
    assert cores.usable_cores() == os.cpu_count()


def test_a_containers_quota_counts_in_version_2(quota):
    quota("0::/pod/job\n", cpu_max="max 100000\n", pod__cpu_max="350000 100000\n", pod__job__cpu_max="800000 100000\n")
    assert cores.usable_cores() == 4  # three and a half, rounded up


def test_a_containers_quota_counts_in_version_1(quota):
    quota("3:cpu,cpuacct:/job\n1:memory:/job\n", cpu__cpu_cfs_quota_us="-1\n", cpu__cpu_cfs_period_us="100000\n")
    assert cores.usable_cores() == 64
    quota("3:cpu,cpuacct:/job\n", cpu__job__cpu_cfs_quota_us="50000\n", cpu__job__cpu_cfs_period_us="100000\n")
    assert cores.usable_cores() == 1


def test_openmp_is_told_of_the_quota_alone_and_only_where_the_user_did_not(quota, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota("0::/\n", cpu_max="max 100000\n")
    cores.set_up_openmp()
    assert "OMP_NUM_THREADS" not in os.environ
    quota("0::/\n", cpu_max="200000 100000\n")
    cores.set_up_openmp()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cores.set_up_openmp()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_openmps_threads_spin_for_a_short_time_unless_the_user_says_how_long(monkeypatch):
    for given, want in (({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)):
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        cores.set_up_openmp()
        assert os.environ.get("GOMP_SPINCOUNT") == want
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a core that two processes must share")
def test_a_program_that_takes_the_core_is_noticed():
    core = str(min(os.sched_getaffinity(0)))
    spin = [sys.executable, "-c", "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass", core]
    with subprocess.Popen(spin) as other:
        try:
            said = subprocess.check_output([sys.executable, "-c", PINNED, core], text=True)
        finally:
            other.kill()
    assert said.endswith("of 1 cores busy\n") and "keep None" not in said, said


def test_an_idle_machine_is_not_crowded(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    monkeypatch.setattr(cores, "_STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr(cores, "_quotas", list)
    ticks = os.sysconf("SC_CLK_TCK")

    def state(*busy: float) -> None:
        rows = [f"cpu{number} {int(seconds * ticks)} 0 0 {10**6} 50 0 0 0 9 0" for number, seconds in enumerate(busy)]
        stat.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *rows, "intr 1 2"]))

    state(5, 5, 5)
    assert cores.busy_cores_warning(sleep=lambda _: state(5, 5, 5)) is None
    assert cores.busy_cores_warning(sleep=lambda _: state(5, 90, 5)) is None, "not a core of ours"
    assert cores.busy_cores_warning(sleep=lambda _: state(90, 5, 90)) == "other programs keep 2.0 of 2 cores busy"
    stat.unlink()
    assert cores.busy_cores_warning(sleep=lambda _: None) is None


@pytest.mark.parametrize(("processes", "expected"), [(None, 8), ("1", 8), ("3", 2), ("16", 1), ("0", 8), ("two", 8)])
def test_processes_that_torchrun_starts_share_the_cores(monkeypatch, processes, expected):
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cores.cores_of_process() == expected
