"""Read tables in which a photograph has several classes: in a column of lists, or in a column of 0 and 1 for each
class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fasttrain.errors import UserError
from fasttrain.photos.rows import Table, text_of
from fasttrain.photos.source import few

_MARKS = ("|", ";", ",")
_YES_OR_NO = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_SIGNS = {"-1": False, "1": True}
_NAMED = {"|": "'|'", ";": "';'", ",": "','", " ": "spaces"}


@dataclass(frozen=True)
class LabelSets:
    """The set of classes of each row of a table, and a description of how they were read.

    `names` holds the names of the columns if the table has one column for each class. Otherwise it is empty.
    """

    sets: list[tuple[str, ...]]
    how: str
    names: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Return whether every row has exactly one class."""
        return all(len(each) == 1 for each in self.sets)


def sets_in_cells(table: Table, column: int, *, multi_label: bool) -> LabelSets | None:
    """Return the set of classes in each cell of a column, or None if each cell is a single label.

    A cell holds a list, a JSON list, or names with a separator between them. All cells are read in the same way. With
    `multi_label` the labels are always sets. Otherwise they are sets only if a list has several entries, or if each
    name in a cell such as "cat|dog" is also the only name in another cell. Raises UserError if the cells contain
    several separators and `multi_label` is True.
    """
    cells = [row[column] for row in table.rows]
    lists = _as_lists(cells)
    if lists is not None:
        if multi_label or any(len(each) > 1 for each in lists):
            return LabelSets([_names(each) for each in lists], "lists")
        return None
    texts = [text_of(cell) for cell in cells]
    mark = _separator(table, column, texts, multi_label=multi_label)
    if mark is None:
        return LabelSets([(text,) if text else () for text in texts], "one name per cell") if multi_label else None
    split = [text.split(None if mark == " " else mark) for text in texts]
    return LabelSets([_names(each) for each in split], f"separated by {_NAMED[mark]}")


def sets_in_columns(table: Table, columns: Sequence[int]) -> LabelSets | None:
    """Return the set of classes of each row from columns that hold 0 and 1, or -1 and 1, one column for each class.

    `columns` are positions; columns with other values are left out. Returns None if fewer than two are left.
    """
    for values in (_YES_OR_NO, _SIGNS):
        found = {column: _truths(table, column, values) for column in columns}
        truths = {table.columns[column]: each for column, each in found.items() if each is not None}
        if len(truths) > 1:
            names = tuple(truths)
            rows = zip(*truths.values(), strict=True)
            sets = [tuple(name for name, true in zip(names, row, strict=True) if true) for row in rows]
            return LabelSets(sets, f"{len(names):,} columns of 0 and 1 ({few(names)})", names)
    return None


def _truths(table: Table, column: int, values: dict[str, bool]) -> list[bool] | None:
    """Return the column as booleans, or None if a cell is not one of `values`."""
    cells = [values.get(text_of(row[column]).lower()) for row in table.rows]
    return None if None in cells else [bool(each) for each in cells]


def _as_lists(cells: Sequence[Any]) -> list[list[Any]] | None:
    """Return the column as lists, or None if a cell is neither empty, nor a list, nor a list in JSON."""
    given = [cell for cell in cells if text_of(cell)]
    if not given:
        return None
    if not all(isinstance(cell, (list, tuple)) for cell in given):
        if not all(isinstance(cell, str) and cell.strip()[:1] == "[" for cell in given):
            return None
        try:
            cells = [json.loads(cell) if text_of(cell) else [] for cell in cells]
        except (ValueError, RecursionError):
            return None
    return [list(cell) if isinstance(cell, (list, tuple)) else [] for cell in cells]


def _separator(table: Table, column: int, texts: Sequence[str], *, multi_label: bool) -> str | None:
    """Return the character that separates names in the column, or None if there is none."""
    found = [mark for mark in _MARKS if any(mark in text for text in texts)]
    if not multi_label:
        return next((mark for mark in found[:1] if mark != "," and _stand_alone(texts, mark)), None)
    if len(found) > 1:
        raise UserError(
            f"{table.path}: the cells of column {table.columns[column]} hold {' and '.join(map(repr, found))}; "
            'separate classes by one of them in every row, or give JSON lists: ["cat", "dog"]'
        )
    if found:
        return found[0]
    return " " if any(len(text.split()) > 1 for text in texts) else None


def _stand_alone(texts: Sequence[str], mark: str) -> bool:
    """Return whether every separated name is also a cell of its own: "a" and "b" besides "a|b"."""
    alone = {text for text in texts if mark not in text}
    return all(name.strip() in alone for text in texts if mark in text for name in text.split(mark) if name.strip())


def _names(cell: Sequence[Any]) -> tuple[str, ...]:
    """Return the names in a cell without repetition."""
    return tuple(dict.fromkeys(name for each in cell if (name := text_of(each))))
