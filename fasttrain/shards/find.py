"""Find the data set in a folder, and choose the folder of a new one."""

from __future__ import annotations

import re
from pathlib import Path

from fasttrain.config.location import is_url, user_path
from fasttrain.errors import UserError
from fasttrain.shards.format import MANIFEST

SHARDS = "shards"
"""The folder below which `convert` puts data sets by default."""

_ENDINGS = re.compile(r"(\.(tar|tgz|zip|gz|bz2|xz|zst|csv|tsv|jsonl|parquet|txt|beton|tfrecords?))+$", re.IGNORECASE)


def default_out(source: str) -> str:
    """Return the default folder for the shards of `source`: shards/NAME, with the last part of its path or URL as NAME.

    If `shards` in the working folder is a data set itself, as older versions made it, return `shards`.
    """
    return SHARDS if (Path(SHARDS) / MANIFEST).is_file() else f"{SHARDS}/{source_name(source)}"


def source_name(source: str) -> str:
    """Return the last part of the path or URL `source`, without the suffix of an archive or a table."""
    path = source.partition("://")[2] if is_url(source) else str(user_path(source).absolute())
    return _ENDINGS.sub("", Path(path.split("::")[0]).name) or "data"


def data_set_in(data: str | Path) -> str | Path:
    """Return the path of the only data set in the folder `data`.

    Return `data` unchanged if it is a URL or a data set itself, or if there is no data set in it. Raises UserError,
    which lists the data sets, if there are several.
    """
    if is_url(data):
        return data
    folder = user_path(data)
    if (folder / MANIFEST).is_file():
        return data
    found = sorted(each.parent for each in folder.glob(f"*/{MANIFEST}") if any(each.parent.glob("index*.npy")))
    if len(found) > 1:
        raise UserError(f"{folder} holds {len(found)} data sets; choose one: {', '.join(map(str, found))}")
    return found[0] if found else data
