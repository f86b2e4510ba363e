"""Read the rows of a table from a file: CSV and its variants, JSON lines, Parquet, or a plain list."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.errors import UserError
from fasttrain.extras import require
from fasttrain.text import counted, nearest, read_text

TEXT = (".csv", ".tsv", ".tab", ".txt", ".lst", ".list")
JSON = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*TEXT, *JSON, *PARQUET)

_PATHS = (
    "path imagepath imgpath filepath filepaths relativepath image img images file filename filenames imagename imgname "
    "imagefile imgfile photo photograph picture imageid imgid id"
)
_LABELS = (
    "label labels labelname class classes classname category categoryname target targetname tag species breed variety "
    "diagnosis y groundtruth labelid labelidx classid classidx categoryid targetid"
)
_SPLITS = "split splits subset partition set dataset usage phase traintest trainval trainvaltest"
# Usual names of columns, in the form of `plain`. The likeliest come first.
PATHS, LABELS, SPLITS = _PATHS.split(), _LABELS.split(), _SPLITS.split()

_PHOTOGRAPH = r"\.(?:jpe?g?|jfif|png|webp|bmp|gif|tiff?|p[pgn]m|avif|hei[cf]|jp2|jxl)"
_LIST = re.compile(rf"(.*?{_PHOTOGRAPH}|\S+)\s+(\S.*)", re.IGNORECASE)
_LIST_END = re.compile(rf"(\S+(?:\s+\S+)*?)\s+(\S.*{_PHOTOGRAPH})", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The rows of a table file. Each row has a cell for each of `columns`, and `lines` has its line in the file.

    Columns without a header are named "1", "2", ...
    """

    path: Path
    columns: list[str]
    rows: list[list[Any]]
    lines: list[int]

    def column(self, given: str) -> int:
        """Return the position of the column named `given`. Raises UserError if it does not exist."""
        if given in self.columns:
            return self.columns.index(given)
        same = [number for number, name in enumerate(self.columns) if plain(name) == plain(given)]
        if len(same) == 1:
            return same[0]
        hint = nearest(given, self.columns)
        raise UserError(f"{self.path} has no column '{given}', only {', '.join(self.columns)}{hint}")

    def known(self, names: list[str]) -> list[int]:
        """Return the positions of columns whose name, in the form of `plain`, is in `names`. They are in the order of
        `names`."""
        there = [plain(name) for name in self.columns]
        return [number for name in names for number, each in enumerate(there) if each == name]

    def where(self, row: int) -> str:
        """Return "FILE: line 7" for a row, for messages."""
        return f"{self.path}: line {self.lines[row]}"


def plain(name: str) -> str:
    """Return a column's name in lower case without punctuation: "Image Path" becomes "imagepath"."""
    return re.sub(r"[\W_]+", "", name).lower()


def looks_like_path(cell: Any) -> bool:
    """Return whether a cell ends with the suffix of a photograph."""
    return isinstance(cell, str) and re.search(rf"{_PHOTOGRAPH}$", cell.strip(), re.IGNORECASE) is not None


def text_of(cell: Any) -> str:
    """Return a cell as text, "" for a missing value."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def read_table(path: Path, given: tuple[str | None, ...] = ()) -> Table:
    """Read all rows of a table file. Its suffix decides the format.

    `given` are names of columns that the user gave, which help to recognize a header. Raises UserError, which names the
    file and the line, if it is not a valid table, and OSError if it can't be read.
    """
    suffix = path.suffix.lower()
    if suffix in PARQUET:
        return _parquet(path)
    if suffix in JSON:
        return _json_lines(path)
    numbered = list(_cells(path, read_text(path)))
    _require_rows(path, numbered)
    header = _is_header(numbered[0][1], given, unknown=suffix in (".csv", ".tsv", ".tab"))
    width = max(len(cells) for _, cells in numbered)
    columns = [name.strip() for name in numbered[0][1]] if header else [str(1 + number) for number in range(width)]
    rows = numbered[1:] if header else numbered
    for line, cells in rows:
        if len(cells) > len(columns):
            raise UserError(
                f"{path}: line {line}: {len(cells):,} cells, but {counted(len(columns), 'column')}; put text with "
                "commas in quotes"
            )
        cells += [""] * (len(columns) - len(cells))
    return Table(path, columns, [cells for _, cells in rows], [line for line, _ in rows])


def _require_rows(path: Path, rows: Sequence[Any]) -> None:
    """Raise UserError if a table has no rows."""
    if not rows:
        raise UserError(f"{path} holds no rows; give a table with a row for each photograph")


def _is_header(cells: list[str], given: tuple[str | None, ...], *, unknown: bool) -> bool:
    """Return whether the first row has the names of columns. With `unknown`, a row of unknown names counts too."""
    names = {plain(cell) for cell in cells}
    if any(looks_like_path(cell) for cell in cells):
        return False
    return bool(names & {*PATHS, *LABELS, *SPLITS, *(plain(each) for each in given if each)}) or unknown


def _cells(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row that is not empty, of a delimited file or a plain list."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    counts = {mark: first.count(mark) for mark in ("\t", ",", ";", "|")}
    if path.suffix.lower() == ".tsv":
        counts = {"\t": 1}
    mark = max(counts, key=lambda each: counts[each])
    if not counts[mark] and path.suffix.lower() not in (".csv", ".tsv"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip() and line[0] != "#":
                yield number, _list_cells(line.strip())
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}; is a quote missing?") from error


def _list_cells(line: str) -> list[str]:
    """Return the cells of a line such as `path 3 0` or `3 path`, which are separated by spaces. The path may contain
    spaces."""
    found = _LIST_END.fullmatch(line)
    if found and not looks_like_path(found[1].split()[0]):
        return [*found[1].split(), found[2]]
    found = _LIST.fullmatch(line)
    return [found[1], *found[2].split()] if found else [line]


def _json_lines(path: Path) -> Table:
    """Read a table with a JSON object in each line."""
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {line}: not JSON ({error}); give one object per line") from error
        if not isinstance(record, dict):
            raise UserError(
                f'{path}: line {line}: not a JSON object; give one per line: {{"path": "a.jpg", "label": "cat"}}'
            )
        records.append(record)
        lines.append(line)
    _require_rows(path, records)
    columns = list(dict.fromkeys(name for record in records for name in record))
    return Table(path, columns, [[record.get(name) for name in columns] for record in records], lines)


def _parquet(path: Path) -> Table:
    """Read a Parquet file without its columns of bytes and structs."""
    require(f"--source {path}", "parquet", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        kinds = {field.name: field.type for field in file.schema_arrow}
        # Columns of images would fill the memory, and a table of paths has none.
        columns = [name for name, kind in kinds.items() if not pyarrow.types.is_nested(kind) or _is_list(kind)]
        columns = [name for name in columns if not pyarrow.types.is_binary(kinds[name])]
        read = file.read(columns=columns)
    except pyarrow.ArrowException as error:
        raise UserError(
            f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:200]}); copy it again"
        ) from error
    cells = [read.column(name).to_pylist() for name in columns]
    rows = [list(row) for row in zip(*cells, strict=True)]
    _require_rows(path, rows)
    return Table(path, columns, rows, list(range(1, len(rows) + 1)))


def _is_list(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind))
