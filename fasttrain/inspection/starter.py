"""`init`: inspect photographs, and write suitable settings with their reasons into a TOML file for `train --config`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import tomli_w
import torch

from fasttrain.config.load import load_config
from fasttrain.config.location import is_url, user_path
from fasttrain.errors import UserError, of_os
from fasttrain.files import atomic_write_bytes, make_folder
from fasttrain.inspection.findings import Inspection
from fasttrain.inspection.inspect import inspect
from fasttrain.inspection.suggestions import Suggestion, class_counts, imbalance, suggest
from fasttrain.memory import total_memory
from fasttrain.shards.convert import convert
from fasttrain.shards.find import default_out, source_name
from fasttrain.text import counted

_WIDTH = 100


def init(source: str, out: str | Path | None = None, *, overwrite: bool = False) -> tuple[Path, Inspection]:
    """Write a TOML file for `train --config` with settings that suit `source`. Return its path and the inspection.

    `source`: shards, or photographs in any form that `convert` accepts. A folder is converted into the cache, where
    `train` finds it, and anything else into shards/NAME. `out`: the file to write, by default NAME.toml in the working
    directory. `overwrite`: replace an existing file. Raises UserError if `out` exists and `overwrite` is False, or if
    `source` can't be read.
    """
    path = user_path(out if out is not None else f"{source_name(source)}.toml")
    if path.exists() and not overwrite:
        raise UserError(f"{path} already exists; give another --out, or --overwrite")
    data = source
    if not user_path(source).is_dir() and (not is_url(source) or source.startswith("hf://")):
        data = default_out(source)
        convert(source, data)
    found = inspect(data, duplicates=False)
    suggestions = suggest(found, cuda=torch.cuda.is_available(), memory=total_memory())
    try:
        make_folder(path.parent)
        atomic_write_bytes(path, starter(source, data, path, found, suggestions).encode())
    except OSError as error:
        raise of_os(error, path, "choose another --out") from error
    load_config(path, {})  # raises here, not only in `train`, if a setting is invalid
    return path, found


def starter(source: str, data: str, path: Path, found: Inspection, suggestions: Iterable[Suggestion]) -> str:
    """Return the content of the TOML file at `path`.

    `source` is the path or URL that the user gave, and `data` is the value of the setting `data`, usually the shards.
    `found` is the inspection, and `suggestions` are the settings to write.
    """
    lines = [
        *_comment(f"Settings for: fasttrain train --config {path}"),
        *_comment(f"Written by: fasttrain init {source}"),
        "#",
        *(line for fact in facts(found) for line in _comment(fact)),
        "#",
        *_comment(
            "Above each setting is the reason for it. Settings behind # are alternatives. `fasttrain train --help` "
            "lists all settings."
        ),
        "",
        *_comment("relative to the folder in which you start the training"),
        tomli_w.dumps({"data": data}).rstrip(),
    ]
    for each in suggestions:
        setting = tomli_w.dumps({each.name: each.value}).rstrip()
        lines += ["", *_comment(each.reason), setting if each.active else f"# {setting}"]
    return "\n".join(lines) + "\n"


def facts(found: Inspection) -> Iterator[str]:
    """Yield the most important facts of an inspection, one line each."""
    splits = ", ".join(f"{count:,} in {name}" for name, count in found.split_samples.items() if count)
    yield f"{found.photographs:,} photographs of {len(found.classes):,} classes: {splits}"
    counts = class_counts(found)
    largest, smallest = next(iter(counts)), next(reversed(counts))
    ratio = imbalance(found)
    yield (
        f"training photographs per class: {counts[largest]:,} ({largest}) to {counts[smallest]:,} ({smallest}), "
        f"a ratio of {ratio:,.1f}"
    )
    if found.width is not None and found.height is not None:
        yield (
            f"width {found.width.min:,} to {found.width.max:,} px, median {found.width.median:,}; "
            f"height {found.height.min:,} to {found.height.max:,} px, median {found.height.median:,}"
        )
    if broken := found.counts.get("broken", 0) + len(found.broken):
        yield f"{counted(broken, 'broken file')}; to list them, run fasttrain inspect"


def _comment(text: str) -> list[str]:
    plain = " ".join(text.split())
    return [f"# {line}" for line in textwrap.wrap(plain, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)]
