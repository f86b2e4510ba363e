"""Run one check in this process, which the runner has started and watches."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from tools.gpu_check.findings import Findings
from tools.gpu_check.registry import Setting, find_checks


def main(arguments: list[str] | None = None) -> int:
    """Run the check that `arguments` name. Return 1 if a part of the check failed, otherwise 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--photographs", type=Path)
    given = parser.parse_args(arguments)
    faulthandler.register(signal.SIGUSR1)  # the runner sends SIGUSR1 before it kills a check that hangs
    given.folder.mkdir(parents=True, exist_ok=True)
    findings = Findings(given.folder / "findings.json")
    setting = Setting(given.device, given.folder, given.data, given.limit, given.photographs)
    (check,) = (each for each in find_checks((given.module,)) if each.name == given.name)
    with findings.part(given.name):
        check.function(setting, findings)
    findings.save()
    return 1 if findings.failures else 0


def run() -> NoReturn:
    """Run the check that the command line names, and end the process."""
    code = main()
    # A check may leave threads running, such as a loader's. They must not keep the process from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
