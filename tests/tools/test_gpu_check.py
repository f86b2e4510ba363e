"""`python -m tools.gpu_check`: the runner's reports, and a rehearsal of all checks on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import PATIENCE, wait_until
from tools.gpu_check.findings import Findings
from tools.gpu_check.registry import find_checks
from tools.gpu_check.runner import Runner
from tools.gpu_check.syncs import Syncs
from tools.gpu_check.trace import Traced, read_trace

ROOT = Path(__file__).parents[2]
CASES = "tests.tools.gpu_check_cases"


def run_cases(out: Path, *names: str, seconds: float = 300) -> tuple[bool, dict[str, dict[str, Any]], str]:
    """Run the cases of `names`. Return whether all passed, their rows by name, and the Markdown."""
    checks = [each for each in find_checks([CASES]) if each.name in names]
    passed = Runner(checks, "cpu", out, seconds=seconds, show=False).run()
    return passed, rows_in(out), (out / "gpu_check.md").read_text()


def rows_in(out: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((out / "gpu_check.json").read_text())
    return {row["name"]: row for row in report["checks"]}


def test_figures_goals_and_failures_are_in_the_table(tmp_path):
    passed, rows, table = run_cases(tmp_path, "passes", "fails", "misses", "skips", "needs_cuda")
    assert not passed
    assert {name: row["status"] for name, row in rows.items()} == {
        "passes": "passed",
        "fails": "failed",
        "misses": "goal missed",
        "skips": "skipped",
        "needs_cuda": "needs CUDA",
    }
    assert rows["fails"]["figures"] == {"after the failure": True}, "a part that fails doesn't end the check"
    assert rows["fails"]["failures"]["first"].endswith("ValueError: the losses | differ")
    lines = table.splitlines()
    assert "| 1 | passes | **passed** | " in table and "rate: 1,234<br>second GPU: one GPU here |" in table
    assert "**failed: first**" in table and "### 2 fails: first" in lines
    assert "**goal missed: share 0.5, to be at least 0.98**" in table
    (row,) = (line for line in lines if line.startswith("| 2 |"))
    assert row.count(" | ") == 4, "what a failure says must not add a column"


def test_only_what_passed_missed_a_goal_or_needs_cuda_lets_it_pass(tmp_path):
    assert run_cases(tmp_path / "good", "passes", "misses", "skips", "needs_cuda")[0]
    assert not run_cases(tmp_path / "bad", "passes", "dies")[0]


@pytest.mark.slow
def test_a_check_that_hangs_is_killed_and_its_figures_and_its_place_are_kept(tmp_path):
    _, rows, _ = run_cases(tmp_path, "hangs", "passes")
    hung = rows["hangs"]
    assert hung["status"] == "timed out" and hung["figures"] == {"before it hung": 7}
    assert "gpu_check_cases.py" in hung["failures"]["timed out"] and "in hangs" in hung["failures"]["timed out"]
    assert rows["passes"]["status"] == "passed"


def test_a_process_that_dies_is_reported_with_its_last_lines(tmp_path):
    _, rows, _ = run_cases(tmp_path, "dies")
    assert rows["dies"]["status"] == "failed"
    assert rows["dies"]["failures"]["ended"] == "exit code -9\nthe last line"


def test_what_a_former_run_found_is_not_reported_again(tmp_path):
    run_cases(tmp_path, "passes")
    (tmp_path / "mine.txt").write_text("another file in the same folder")
    _, rows, _ = run_cases(tmp_path, "passes", seconds=0.5)
    assert not any(row["figures"] for row in rows.values())
    checks = [each for each in find_checks([CASES]) if each.name == "dies"]
    findings = tmp_path / "05-dies" / "findings.json"
    findings.parent.mkdir()
    findings.write_text('{"figures": {"old": 1}, "missed": {}, "skipped": {}, "failures": {}}')
    Runner(checks, "cpu", tmp_path, seconds=300, show=False).run()
    assert rows_in(tmp_path)["dies"]["figures"] == {}
    assert (tmp_path / "mine.txt").exists()


def test_checks_that_no_time_is_left_for_say_so(tmp_path):
    passed, rows, _ = run_cases(tmp_path, "passes", "fails", seconds=0.5)
    assert not passed and {row["status"] for row in rows.values()} == {"no time left"}


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_off_in_the_middle_has_reported_what_it_had(tmp_path, ended_by):
    script = f"""
        import signal, sys
        from pathlib import Path
        from tools.gpu_check.registry import find_checks
        from tools.gpu_check.runner import Runner
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        checks = [each for each in find_checks(["{CASES}"]) if each.name in ("passes", "hangs", "dies")]
        checks[1] = type(checks[1])(**{{**vars(checks[1]), "limit": 600}})
        Runner(checks, "cpu", Path({str(tmp_path)!r}), seconds=600).run()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        table = tmp_path / "gpu_check.md"  # written after the JSON
        wait_until(lambda: table.exists() and "before it hung: 7" in table.read_text())
    finally:
        process.send_signal(ended_by)
        process.wait(PATIENCE)
    statuses = {name: row["status"] for name, row in rows_in(tmp_path).items()}
    at_hand = "cut off" if ended_by == signal.SIGTERM else "running"
    assert statuses == {"passes": "passed", "hangs": at_hand, "dies": "not run"}
    table = (tmp_path / "gpu_check.md").read_text()
    assert f"| **{at_hand}** |" in table and "before it hung: 7" in table and "| **not run** |" in table
    if ended_by == signal.SIGTERM:
        assert not running_checks(tmp_path), "the check is killed with the run"
    else:
        for number in running_checks(tmp_path):
            os.kill(number, signal.SIGKILL)


def running_checks(out: Path) -> list[int]:
    """Return the processes whose command line names the folder `out`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(out).encode() in (path / "cmdline").read_bytes() and int(path.name) != os.getpid():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_the_checks_are_registered_in_order():
    checks = find_checks()
    assert [each.number for each in checks] == list(range(13))
    assert checks[0].name == "data" and len({each.name for each in checks}) == 13


@pytest.mark.full
def test_the_rehearsal_on_a_cpu_passes(tmp_path):
    pytest.importorskip("fasttrain._native")
    command = [sys.executable, "-m", "tools.gpu_check", "--device", "cpu", "--out", str(tmp_path / "out")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * PATIENCE)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    rows = rows_in(tmp_path / "out")
    assert len(rows) == 13
    assert {row["status"] for row in rows.values()} <= {"passed", "goal missed", "skipped"}
    needing_cuda = {part for row in rows.values() for part, why in row["skipped"].items() if why == "needs CUDA"}
    assert {"advice", "compiled", "reduce-overhead", "SyncBN"} <= needing_cuda
    for name in ("steps", "repeating", "diverging", "ranks"):
        assert rows[name]["figures"], f"{name} has measured nothing"


def test_a_trace_counts_what_the_gpu_did():
    def event(category: str, name: str, begin: float, length: float, **arguments: Any) -> dict[str, Any]:
        return {"cat": category, "name": name, "ts": begin, "dur": length, "args": arguments}

    events = [
        event("kernel", "conv", 1000, 500),
        event("kernel", "relu", 1200, 500),  # at the same time, on another stream
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 2000, 100, bytes=1 << 20),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 2100, 100, bytes=512),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 2200, 100, bytes=1 << 20),
        event("cuda_runtime", "cudaLaunchKernel", 0, 5),
        event("cuda_driver", "cuLaunchKernelEx", 0, 5),
        event("cuda_runtime", "cudaMemcpyAsync", 0, 5),
        event("cpu_op", "aten::conv2d", 0, 5),
        {"name": "process_name", "ph": "M"},
    ]
    assert read_trace(events) == Traced(kernels=2, launches=2, busy_ms=1.0, pageable=1)


def test_waits_are_counted_by_the_line_that_began_them_and_planned_looks_apart():
    syncs, said = Syncs(cuda=False), "called a synchronizing CUDA operation"

    def require_finite() -> None:
        syncs.note(UserWarning(said), UserWarning, "finite.py", 1)

    syncs.note(UserWarning(said), UserWarning, "/elsewhere/torch/_tensor.py", 7)
    syncs.note(UserWarning("another warning"), UserWarning, "/elsewhere/torch/_tensor.py", 8)
    require_finite()
    assert syncs.planned == 1 and syncs.said == "elsewhere/torch/_tensor.py:7 x 1"


def test_findings_survive_what_json_has_no_word_for(tmp_path):
    findings = Findings(tmp_path / "findings.json")
    findings.figure("path", tmp_path)
    assert json.loads((tmp_path / "findings.json").read_text())["figures"] == {"path": str(tmp_path)}
