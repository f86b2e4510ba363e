"""Checks for the tests of the runner: one that passes, one that fails, one that misses its goal, and so on."""

from __future__ import annotations

import os
import time

from tools.gpu_check.findings import Findings, Skipped
from tools.gpu_check.registry import Setting, check


@check(1, "passes", limit=30)
def passes(setting: Setting, findings: Findings) -> None:
    findings.figure("rate", 1234.5)
    with findings.part("second GPU"):
        raise Skipped("one GPU here")


@check(2, "fails in a part", limit=30)
def fails(setting: Setting, findings: Findings) -> None:
    with findings.part("first"):
        raise ValueError("the losses | differ")
    findings.figure("after the failure", True)


@check(3, "misses its goal", limit=30)
def misses(setting: Setting, findings: Findings) -> None:
    findings.goal("share", 0.5, at_least=0.98)


@check(4, "hangs", limit=4)
def hangs(setting: Setting, findings: Findings) -> None:
    findings.figure("before it hung", 7)
    time.sleep(600)


@check(5, "ends without a word", limit=30)
def dies(setting: Setting, findings: Findings) -> None:
    print("the last line", flush=True)
    os.kill(os.getpid(), 9)


@check(7, "finds nothing to check", limit=30)
def skips(setting: Setting, findings: Findings) -> None:
    findings.skip("DALI", "not installed")


@check(6, "needs a GPU", limit=30, needs_cuda=True)
def needs_cuda(setting: Setting, findings: Findings) -> None:
    raise AssertionError("must not run on a CPU")
