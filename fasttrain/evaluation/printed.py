"""Print predictions as a table, JSON lines, JSON or CSV. Each is written as soon as it is made."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO

from fasttrain.errors import UserError
from fasttrain.text import nearest, probability_percent

if TYPE_CHECKING:
    from fasttrain.evaluation.predict import Prediction

_LEAST_SHOWN = 0.0005  # smaller probabilities would be shown as 0.0 %
_MEASURED = 64  # the number of predictions that decide the widths of the table's columns


def print_predictions(predictions: Iterable[Prediction], format: str, out: TextIO, *, width: int | None) -> int:
    """Write `predictions` to `out` one by one, and return how many there were.

    `format`: one of FORMATS. `width`: the terminal's width in characters, to which the table's lines are shortened;
    None shortens nothing.
    """
    count = 0

    def counted() -> Iterator[Prediction]:
        nonlocal count
        for prediction in predictions:
            count += 1
            yield prediction

    if format == "table":
        _table(counted(), out, width)
    else:
        _WRITERS[format](counted(), out)
    return count


def check_format(format: str) -> str:
    """Return `format` if it is one of FORMATS. Raises UserError otherwise."""
    if format not in FORMATS:
        raise UserError(f"--format {format} is not one of {', '.join(FORMATS)}{nearest(format, list(FORMATS))}")
    return format


def _json_lines(predictions: Iterable[Prediction], out: TextIO) -> None:
    for prediction in predictions:
        out.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")


def _json(predictions: Iterable[Prediction], out: TextIO) -> None:
    before = "[\n"
    for prediction in predictions:
        out.write(before + textwrap.indent(json.dumps(prediction.to_dict(), indent=2, ensure_ascii=False), "  "))
        before = ",\n"
    out.write("[]\n" if before == "[\n" else "\n]\n")


def _csv(predictions: Iterable[Prediction], out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    started = False
    for prediction in predictions:
        if prediction.multi_label:
            if not started:
                writer.writerow(["image", "classes", "probabilities"])
                started = True
            shares = (f"{probability:.6g}" for probability in prediction.probabilities)
            writer.writerow([prediction.image, "|".join(prediction.classes), "|".join(shares)])
            continue
        if not started:
            ranks = range(1, len(prediction.classes) + 1)
            answer = [] if prediction.unknown is None else ["answer"]
            columns = chain.from_iterable((f"class_{rank}", f"probability_{rank}") for rank in ranks)
            writer.writerow(["image", *answer, *columns])
            started = True
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        row = chain.from_iterable((name, f"{probability:.6g}") for name, probability in pairs)
        answer = [] if prediction.unknown is None else [prediction.answer]
        writer.writerow([prediction.image, *answer, *row])


def _table(predictions: Iterator[Prediction], out: TextIO, width: int | None) -> None:
    """Write a table whose column widths fit the first predictions."""
    head = list(islice(predictions, _MEASURED))
    if not head:
        return
    names = max(len("photograph"), *(len(str(each.image)) for each in head))
    if width is not None:
        names = min(names, max(width * 2 // 5, 20))
    if head[0].multi_label:
        _table_of_sets(chain(head, predictions), out, width, names)
        return
    classes = max(len("class"), *(len(each.answer) for each in head))
    then = "  then" if len(head[0].classes) > 1 or head[0].unknown is not None else ""
    out.write(f"{'photograph':<{names}}  {'class':<{classes}}  {'prob.':>6}{then}\n")
    for each in chain(head, predictions):
        path = _fitting(str(each.image), width, names)
        first = 0 if each.unknown else 1
        rest = zip(each.classes[first:], each.probabilities[first:], strict=True)
        others = ", ".join(
            f"{name} {probability_percent(probability)}%" for name, probability in rest if probability >= _LEAST_SHOWN
        )
        likeliest = "" if each.unknown else f"{probability_percent(each.probabilities[0])}%"
        line = f"{path:<{names}}  {each.answer:<{classes}}  {likeliest:>6}  {others}".rstrip()
        if width is not None and len(line) > width:
            line = line[: width - 1] + "…"
        out.write(line + "\n")


def _table_of_sets(predictions: Iterable[Prediction], out: TextIO, width: int | None, names: int) -> None:
    out.write(f"{'photograph':<{names}}  classes\n")
    for each in predictions:
        pairs = zip(each.classes, each.probabilities, strict=True)
        classes = ", ".join(f"{name} {probability_percent(probability)}%" for name, probability in pairs) or "none"
        line = f"{_fitting(str(each.image), width, names):<{names}}  {classes}"
        out.write((line if width is None or len(line) <= width else line[: width - 1] + "…") + "\n")


def _fitting(path: str, width: int | None, names: int) -> str:
    """Return the last `names` characters of `path`, or all of it if no `width` is given."""
    return "…" + path[1 - names :] if width is not None and len(path) > names else path


_WRITERS: dict[str, Callable[[Iterable[Prediction], TextIO], None]] = {
    "jsonl": _json_lines,
    "csv": _csv,
    "json": _json,
}
FORMATS = ("table", *_WRITERS)
