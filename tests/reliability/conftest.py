"""Make faults happen, and list them and their number in the table of docs/faults.md.

`tools/reliability.sh` runs these tests at full length and writes the table; a plain `pytest` runs a few of each.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.reliability.machine import Machine, Made

_PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
# Which of them tools/test.sh leaves out: minutes, even in their short form.
_LONG = ("test_machine_disk", "test_machine_limits", "test_under_load")
_COLUMNS = ("fault", "how it is made to happen", "times", "what was lost", "measured", "test")


class Fault:
    """The fault of one test, and the row that it adds to the table. `full` is set under `tools/reliability.sh`."""

    def __init__(self, node: pytest.Item, full: bool) -> None:
        self.full = full
        self._node = node

    def times(self, short: int, full: int) -> int:
        """Return how often the test has to make its fault happen."""
        return full if self.full else short

    def seen(self, fault: str, how: str, times: int, lost: str = "nothing", measured: str = "") -> None:
        """Add a row to the table. Call it once everything that the row says has been asserted."""
        test = self._node.nodeid.rpartition("/")[2]
        row = dict(zip(_COLUMNS, (fault, how, f"{times:,}", lost, measured, f"`{test}`"), strict=True))
        self._node.user_properties.append(("fault", json.dumps(row)))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """The test's `Fault`."""
    return Fault(request.node, bool(os.environ.get("FASTTRAIN_RELIABILITY")))


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Return a machine whose disk, memory and processes can be made to fail."""
    from tests.reliability.machine import Machine

    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture(scope="session")
def made(machine: Machine, photographs: Path) -> Made:
    """Return the files that the commands read on `machine`."""
    from tests.reliability.machine import make

    return make(machine, photographs)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the rows of the tests that ran into the page, and keep those of tests that did not."""
    if not os.environ.get("FASTTRAIN_RELIABILITY"):
        return
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    ran = {f"`{each.nodeid.rpartition('/')[2]}`" for each in reports if each.when == "call"}
    page = _PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    table, _, after = rest.partition(_END)
    rows = [each for each in _rows(table) if each["test"] not in ran]
    for report in reports:
        if report.when == "call":
            rows += [json.loads(value) for name, value in report.user_properties if name == "fault"]
        if report.failed:
            values = ("**failed**", "", "", "**the test did not hold**", "", f"`{report.nodeid.rpartition('/')[2]}`")
            rows.append(dict(zip(_COLUMNS, values, strict=True)))
    rows.sort(key=lambda row: row["test"])
    made = f"{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, {platform.platform()}"
    lines = ["| " + " | ".join(_COLUMNS) + " |", "| --- | --- | ---: | --- | --- | --- |"]
    lines += ["| " + " | ".join(row[name] for name in _COLUMNS) + " |" for row in rows]
    text = f"{_BEGIN}\nMade by `tools/reliability.sh`, last on {made}.\n\n" + "\n".join(lines) + f"\n{_END}"
    _PAGE.write_text(before + text + after, encoding="utf-8")


def _rows(table: str) -> list[dict[str, str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    return [dict(zip(_COLUMNS, line[2:-2].split(" | "), strict=True)) for line in lines]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests as slow: it takes time to make even a few faults happen."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if item.path.stem in _LONG:
                item.add_marker(pytest.mark.full)
