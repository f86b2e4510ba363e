"""Copy a few photographs of each class: usage: python tools/some_photographs.py FOLDER OUT NUMBER."""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import Path

_KINDS = (".jpg", ".jpeg", ".png", ".webp")


def copy_some(source: Path, out: Path, number: int) -> int:
    """Copy at most `number` photographs below `source` into class folders of `out`. Return how many were copied.

    A photograph's class is the name of its folder. The classes are copied from in turn, so that all have about the same
    number.
    """
    by_class: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in _KINDS:
            by_class[path.parent.name].append(path)
    in_turn = [path for path in chain.from_iterable(zip_longest(*by_class.values())) if path is not None][:number]
    for place, path in enumerate(in_turn):
        (out / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / path.parent.name / f"{place:05}{path.suffix}")
    return len(in_turn)


if __name__ == "__main__":
    print(f"{copy_some(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))} photographs")
