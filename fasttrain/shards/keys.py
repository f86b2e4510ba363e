"""Make the keys of samples: names made from the photographs' paths that WebDataset, DALI and USTAR accept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from urllib.parse import quote

MAX_KEY = 90
_HASH = 13  # "~" and 12 hex digits


def make_keys(paths: Iterable[str]) -> list[str]:
    """Return a unique key for each path: percent-quoted ASCII without suffix or dots, of at most MAX_KEY bytes.

    `cat/IMG_1.v2.jpg` becomes `cat/IMG_1%2Ev2`. If a key is taken already, the next one ends with `~2`. There are no
    dots, because WebDataset treats everything after the first dot as the file's type.
    """
    taken: dict[str, int] = {}
    keys = []
    for path in paths:
        key = _key(path)
        number = taken.get(key, 0) + 1
        taken[key] = number
        while number > 1 and f"{key}~{number}" in taken:
            number += 1
        if number > 1:
            taken[key] = number
            key = f"{key}~{number}"
            taken[key] = 1
        keys.append(key)
    return keys


def _key(path: str) -> str:
    """Return the key of a path, without regard to other keys."""
    stem = os.path.splitext(path)[0]  # noqa: PTH122 - pathlib is slow for a million paths
    quoted = quote(os.fsencode(stem), safe="/").replace(".", "%2E")
    longest = MAX_KEY - len("~999999")
    if len(quoted) <= longest:
        return quoted
    # The hash of the full path distinguishes long names with the same beginning.
    return f"{quoted[: longest - _HASH].rstrip('/')}~{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
