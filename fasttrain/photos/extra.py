"""Read the other columns of a table, which are kept as extra labels of its photographs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from fasttrain.photos.rows import TEXT, Table

# Digits are not a number if they begin with zero, or don't fit into 64 bits.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def extra_columns(table: Table, used: Sequence[int | None]) -> dict[str, list[Any]]:
    """Return the columns of a table, by name, except those at the positions `used`. A column has a value for each row.

    A value is a number, a boolean, a string, a list of these, or None for an empty cell. In a text file such as CSV, a
    column holds numbers if every cell is a number, lists if every cell is a list in JSON, and otherwise strings. If an
    earlier column has the same name, the column's number is appended: "size.5".
    """
    text = table.path.suffix.lower() in TEXT
    found: dict[str, list[Any]] = {}
    for number, name in enumerate(table.columns):
        if number in used:
            continue
        while not name or name in found:
            name = f"{name}.{number + 1}" if name else str(number + 1)
        cells = [row[number] for row in table.rows]
        found[name] = _parsed(cells) if text else [plain_value(cell) for cell in cells]
    return found


def _parsed(cells: list[str]) -> list[Any]:
    """Return the cells of a text file as integers, floating-point numbers, lists or strings."""
    cells = [cell.strip() for cell in cells]
    given = [cell for cell in cells if cell]
    for kind, fits in ((int, _INTEGER.fullmatch), (float, _NUMBER.fullmatch), (json.loads, _list)):
        if given and all(map(fits, given)):
            return [kind(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _list(cell: str) -> bool:
    try:
        return cell[:1] == "[" and isinstance(json.loads(cell), list)
    except (ValueError, RecursionError):
        return False


def plain_value(cell: Any) -> Any:
    """Return a value in a form that JSON supports. NaN becomes None, and a date or time becomes a string."""
    if cell is None or isinstance(cell, (str, bool, int)):
        return cell
    if isinstance(cell, (float, Decimal)):
        return None if math.isnan(cell) else float(cell)
    if isinstance(cell, (list, tuple)):
        return [plain_value(each) for each in cell]
    if isinstance(cell, dict):
        return {str(name): plain_value(each) for name, each in cell.items()}
    return str(cell)  # dates and times
