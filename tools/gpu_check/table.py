"""Write the report as a Markdown table, with the failures below it."""

from __future__ import annotations

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Return `report`, the content of `gpu_check.json`, as a Markdown table with the failures below it."""
    rehearsal = "" if report["device"].startswith("cuda") else ", a rehearsal"
    lines = [
        f"## gpu_check on {report['device']}{rehearsal}, {report['began']}, {report['seconds']:.0f} s",
        "",
        "| # | check | result | s | figures |",
        "| ---: | --- | --- | ---: | --- |",
    ]
    for row in report["checks"]:
        cells = (f"{row['number']}", row["title"], f"**{row['status']}**", f"{row['seconds']:.0f}", _figures(row))
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    for row in report["checks"]:
        for part, text in row["failures"].items():
            lines += ["", f"### {row['number']} {row['name']}: {part}", "", "```", text.replace("```", "'''"), "```"]
    return "\n".join(lines) + "\n"


def _figures(row: dict[str, Any]) -> str:
    said = [f"{name}: {_number(value)}" for name, value in row["figures"].items()]
    said += [f"**goal missed: {name} {value}**" for name, value in row["missed"].items()]
    said += [f"{name}: {reason}" for name, reason in row["skipped"].items()]
    said += [f"**failed: {name}**" for name in row["failures"]]
    return "<br>".join(said)


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(each)}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
