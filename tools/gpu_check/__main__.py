"""`python -m tools.gpu_check`: run the checks on the GPU, or rehearse them with `--device cpu`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tools.gpu_check.registry import find_checks
from tools.gpu_check.runner import PATIENCE, ROOT, Runner

_SECONDS = 540


def main(arguments: list[str] | None = None) -> int:
    """Run the checks that `arguments` ask for. Return 0 if no check failed, otherwise 1."""
    checks = find_checks()
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("build/gpu_check"), help="the folder for the reports")
    parser.add_argument("--seconds", type=float, help="time limit for all checks together")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in checks[1:]], help="run only these checks")
    parser.add_argument("--photographs", type=Path, help="a folder of class folders; default: drawn pictures")
    given = parser.parse_args(arguments)
    photographs = given.photographs
    if photographs is None and (ROOT / "photographs").is_dir():  # as in a pack of tools/gpu_pack.sh
        photographs = ROOT / "photographs"
    if given.only is not None:
        checks = [each for each in checks if each.number == 0 or each.name in given.only]
    real = given.device.startswith("cuda") and given.only is None
    seconds = given.seconds or (_SECONDS if given.device.startswith("cuda") else PATIENCE * _SECONDS)
    patience = 1 if real else PATIENCE
    runner = Runner(checks, given.device, given.out, seconds=seconds, patience=patience, photographs=photographs)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running check is reported as cut off
    passed = runner.run()
    print(f"\n{(given.out / 'gpu_check.md').read_text()}\nsend in this table, {given.out / 'gpu_check.md'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
