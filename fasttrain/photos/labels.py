"""Read class names, and find the class that a label in a file means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fasttrain.errors import UserError
from fasttrain.text import nearest, read_text


def read_class_names(path: Path) -> list[str]:
    """Read a file of class names: a name per line, in label order, or lines with a number and a name.

    Raises UserError if a name is listed twice, or if a number is missing.
    """
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    numbered = [re.fullmatch(r"(\d+)[\s,;:]+(\S.*)", line) for line in lines]
    names = lines
    if lines and all(numbered):
        pairs = sorted((int(found[1]), found[2]) for found in numbered if found)
        first = pairs[0][0]
        if [number for number, _ in pairs] != list(range(first, first + len(pairs))) or first > 1:
            raise UserError(f"{path}: its numbers don't count from 0 or 1; give one class per line, in label order")
        names = [""] * first + [name for _, name in pairs]  # if the list counts from 1, there is no class 0
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not names:
        raise UserError(f"{path}: {f'{twice!r} is listed twice' if names else 'no names'}; give each class a line")
    return names


def class_name(classes: list[str], label: str, where: str) -> str:
    """Return the name of the class that `label` means. `label` is the class's name, or its position in `classes`.

    Raises UserError if `label` is neither. The message begins with `where`, such as "FILE: line 7".
    """
    if label in classes:
        return label
    if is_number(label) and 0 <= int(label) < len(classes) and classes[int(label)]:
        return classes[int(label)]
    raise UserError(
        f"{where}: label {label!r} is not one of the {len(classes):,} --class-names{nearest(label, classes)}"
    )


def sorted_names(names: set[str]) -> list[str]:
    """Return class names in order. If all are numbers, they are sorted by value, so that 10 follows 9."""
    return sorted(names, key=int) if all(map(is_number, names)) else sorted(names)


def choose_labels(texts: Sequence[Sequence[str]]) -> int | None:
    """Return the position of the first column that has names, or 0 if all columns have numbers.

    `texts` holds the labels in each of several columns. Returns None if the columns contradict each other: if rows with
    equal labels in one column have different labels in another.
    """
    pairs = {len(set(zip(texts[0], other, strict=True))) for other in texts}
    if {len(set(other)) for other in texts} != pairs or len(pairs) > 1:
        return None
    return next((number for number, some in enumerate(texts) if not all(map(is_number, some))), 0)


def is_number(text: str) -> bool:
    """Return whether a label consists of digits only."""
    return text.isascii() and text.isdigit()
