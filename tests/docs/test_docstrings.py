"""The docstrings of fasttrain begin with a plain sentence: "Return …", "Raise …", "A folder of …"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AVOIDED = {"As", "By", "Of", "Those", "What", "Where", "Whether"}
"""Words that begin a fragment, which a reader can only complete with the name of the function."""

_OBJECTS = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef


def docstrings(package: Path) -> Iterator[tuple[str, str]]:
    """Yield "file:line name" and the docstring of each object in `package` that has one."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, _OBJECTS) and (text := ast.get_docstring(node)):
                place = f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 1)}"
                yield f"{place} {getattr(node, 'name', 'module')}", text


def test_docstrings_begin_with_a_sentence():
    found = dict(docstrings(ROOT / "fasttrain"))
    assert len(found) > 1500
    fragments = [f"{place}: {text.splitlines()[0]}" for place, text in found.items() if text.split()[0] in AVOIDED]
    assert len(fragments) <= 0.02 * len(found), "\n".join(fragments)
