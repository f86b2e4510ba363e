"""Run the checks one after another, each in a process with a time limit, and write the reports after each check."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.gpu_check.findings import LAST_LINES
from tools.gpu_check.registry import Check
from tools.gpu_check.table import markdown

ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.1
_ANSWER_S = 5
_HEADER = "(most recent call first):\n"
PATIENCE = 5
"""The factor by which a check's time limit is greater on a CPU, or if only some of the checks run."""

_CHILD = """import contextlib, sys
with contextlib.suppress(ImportError):
    import fasttrain  # the one that is installed, not the clone's folder, which has no native module
sys.path.insert(0, sys.argv.pop(1))
from tools.gpu_check.child import run
run()"""

_GOOD = ("passed", "goal missed", "skipped", "needs CUDA")


@dataclass
class Row:
    """One check in the report.

    `status`: "passed", "goal missed", "failed", "skipped", "timed out", "cut off", "needs CUDA", "no time left",
    "running" or "not run", as docs/how-to/gpu-check.md explains. `seconds`: the time that it took. `limit`: its time
    limit. The other fields are those of `Findings`.
    """

    number: int
    name: str
    title: str
    status: str = "not run"
    seconds: float = 0.0
    limit: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs `checks` on `device` and keeps the reports `gpu_check.json` and `gpu_check.md` in `out` up to date.

    `seconds`: the time limit for all checks together. `patience`: multiplies the time limit of each check.
    `photographs`: a folder of class folders, or None for drawn pictures. `show`: print the result of each check.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        device: str,
        out: Path,
        *,
        seconds: float,
        photographs: Path | None = None,
        patience: float = 1,
        show: bool = True,
    ) -> None:
        self.device, self.out, self.seconds, self.photographs = device, out, seconds, photographs
        self._checks, self._patience, self._show = list(checks), patience, show
        self.rows = [Row(each.number, each.name, each.title) for each in checks]
        self._began = time.monotonic()
        self._when = time.strftime("%Y-%m-%d %H:%M:%S")

    @property
    def left(self) -> float:
        """Return how many seconds are left for all checks together."""
        return self.seconds - (time.monotonic() - self._began)

    def run(self) -> bool:
        """Run all checks. Return whether none failed; a missed goal and a skipped check don't count as failures."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name in ("data", "cache"):  # a former run's
            shutil.rmtree(self.out / name, ignore_errors=True)
        self.write()
        for check, row in zip(self._checks, self.rows, strict=True):
            if check.needs_cuda and not self.device.startswith("cuda"):
                row.status = "needs CUDA"
            elif self.left < 1:
                row.status = "no time left"
            else:
                self._run_one(check, row)
            self.write()
            self._say(f"{row.number:2} {row.name}: {row.status} ({row.seconds:.0f} s)")
            for part, lines in row.failures.items():
                self._say(f"   {part}: {lines.splitlines()[-1] if lines else ''}")
        return all(row.status in _GOOD for row in self.rows)

    def write(self) -> None:
        """Write both reports, each completely or not at all."""
        report = {
            "schema": 1,
            "device": self.device,
            "began": self._when,
            "seconds": round(time.monotonic() - self._began, 1),
            "checks": [asdict(row) for row in self.rows],
        }
        for name, text in (("gpu_check.json", json.dumps(report, indent=1)), ("gpu_check.md", markdown(report))):
            beside = self.out / f"{name}.tmp"
            beside.write_text(text)
            beside.replace(self.out / name)

    def _say(self, line: str) -> None:
        if self._show:
            print(line, flush=True)

    def _run_one(self, check: Check, row: Row) -> None:
        folder = self.out / f"{check.number:02}-{check.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = self.out / f"{folder.name}.log"
        row.status, row.limit = "running", round(min(check.limit * self._patience, self.left), 1)
        self.write()
        began = time.monotonic()
        with log.open("w") as file:
            child = subprocess.Popen(
                self._command(check, folder, row.limit),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,
                env=self._environment(),
            )
            try:
                self._watch(child, folder, log, row, began)
            except BaseException:  # the run itself is stopped
                row.status = "cut off"
                raise
            finally:
                _end(child)
                row.seconds = round(time.monotonic() - began, 1)
                self._read(folder, row)
                if row.status == "running":
                    self._judge(child.returncode, log, row)
                else:
                    row.failures[row.status] = _place(log)
                self.write()

    def _command(self, check: Check, folder: Path, limit: float) -> list[str]:
        command = [sys.executable, "-u", "-c", _CHILD, str(ROOT), check.function.__module__, check.name]
        command += [
            "--device",
            self.device,
            "--folder",
            str(folder.resolve()),
            "--data",
            str((self.out / "data").resolve()),
        ]
        command += ["--limit", str(limit)]
        if self.photographs is not None:
            command += ["--photographs", str(self.photographs.resolve())]
        return command

    def _environment(self) -> dict[str, str]:
        entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in entries),  # read in another folder
            "FASTTRAIN_CACHE": str((self.out / "cache").resolve()),
            "MPLBACKEND": "agg",
        }

    def _watch(self, child: subprocess.Popen[bytes], folder: Path, log: Path, row: Row, began: float) -> None:
        told = began
        while child.poll() is None:
            now = time.monotonic()
            if now - began > row.limit:
                row.status = "timed out"
                _ask_where(child, log)
                return
            if now - told > 2:  # so that a run that is killed in the middle of a check has the figures so far
                told, row.seconds = now, round(now - began, 1)
                self._read(folder, row)
                self.write()
            time.sleep(_POLL_S)

    def _read(self, folder: Path, row: Row) -> None:
        try:
            found = json.loads((folder / "findings.json").read_text())
        except (OSError, ValueError):
            return
        row.figures, row.missed = found["figures"], found["missed"]
        row.skipped, row.failures = found["skipped"], found["failures"]

    def _judge(self, code: int | None, log: Path, row: Row) -> None:
        if code != 0 and not row.failures:
            row.failures["ended"] = f"exit code {code}\n{_last_lines(log)}"
        alone = bool(row.skipped) and not row.figures
        row.status = "failed" if row.failures else "goal missed" if row.missed else "skipped" if alone else "passed"


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a check's process, if it still runs, and all processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _ask_where(child: subprocess.Popen[bytes], log: Path) -> None:
    """Make a check that hangs write its stack to its `log`, and wait a few seconds until it is there."""
    child.send_signal(signal.SIGUSR1)
    end = time.monotonic() + _ANSWER_S
    while child.poll() is None and _HEADER not in log.read_text(errors="replace") and time.monotonic() < end:
        time.sleep(_POLL_S)
    time.sleep(_POLL_S)  # for the lines below the header


def _place(log: Path) -> str:
    """Return the stack that a killed check has written to its `log`. If there is none, return the log's last lines."""
    _, header, dumped = log.read_text(errors="replace").rpartition(_HEADER)
    return "\n".join(dumped.splitlines()[:LAST_LINES]) if header else _last_lines(log)


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-LAST_LINES:])
