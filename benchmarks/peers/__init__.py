"""Everyone who feeds a model, on the same work: RandomResizedCrop(224), area (0.08, 1), flip, batch 64.

A contender is a class: `prepare(photographs, folder)` makes its data set once, `__init__(photographs, folder, threads)`
opens it (this and the first batch are timed as such), `batches()` runs an epoch and yields the size of each batch. It
starts with an empty queue: no photograph of an epoch is decoded before it is called. process.py checks that.
Everyone delivers uint8 pixels and labels in memory; each peer is set up as its own documentation recommends for speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

BATCH, SIZE, AREA = 64, 224, (0.08, 1.0)
DINO = [(SIZE, (0.4, 1.0))] * 2 + [(96, (0.05, 0.4))] * 6
"""Size and area of each of DINO's views."""


class Contender(Protocol):
    """See above. `folder` is this contender's alone."""

    @staticmethod
    def prepare(photographs: Path, folder: Path) -> None: ...
    def __init__(self, photographs: Path, folder: Path, threads: int) -> None: ...
    def batches(self) -> Iterator[int]: ...
    def close(self) -> None: ...


CONTENDERS = {
    "floor": "floor:Floor",
    "native": "ours:Native",
    "native, no read-ahead": "ours:NativeBlind",
    "native, 400 px": "ours:Native400",
    "native, 256 px": "ours:Native256",
    "native, raw 256 px": "ours:NativeRaw256",
    "torchvision, PIL": "torchvision_peers:Pil",
    "torchvision v2": "torchvision_peers:V2",
    "FFCV, 512 px": "ffcv_peer:Jpeg512",
    "FFCV, 400 px": "ffcv_peer:Jpeg400",
    "FFCV, 256 px": "ffcv_peer:Jpeg256",
    "FFCV, raw 256 px": "ffcv_peer:Raw256",
    "DALI": "dali_peer:Antialiased",
    "DALI, no antialias": "dali_peer:Linear",
    "WebDataset, PIL": "webdataset_peer:Pil",
    "WebDataset, decode_image": "webdataset_peer:V2",
    "LitData, decode_image": "litdata_peer:V2",
    "SPDL": "spdl_peer:Threads",
    "torchcodec": "torchcodec_peer:Threads",
    "simplejpeg": "simplejpeg_peer:Antialiased",
    "simplejpeg, no antialias": "simplejpeg_peer:Linear",
}
"""`floor` decodes every pixel of the originals and does nothing else. Where no size is given, it is the source's."""

OTHER_WORK = {
    "native, folder": "ours:Folder",
    "native, 2 views": "ours:TwoViews",
    "native, 2 + 6 views": "ours:DinoViews",
    "torchvision v2, two passes": "torchvision_peers:TwoPasses",
    "torchvision v2, 2 views": "torchvision_peers:TwoViews",
    "torchvision v2, 2 + 6 views": "torchvision_peers:DinoViews",
}
"""Outside of the contest: test_folder.py and test_views.py."""

ALL = [name for name in CONTENDERS if name != "native, no read-ahead"]
FROM_PHOTOGRAPHS = (
    "torchvision, PIL",
    "torchvision v2",
    "DALI",
    "DALI, no antialias",
    "SPDL",
    "torchcodec",
    "simplejpeg",
    "simplejpeg, no antialias",
)
PEERS_AT_SOURCE_RESOLUTION = [
    name for name in ALL if not name.startswith(("floor", "native")) and "400 px" not in name and "256 px" not in name
]


def contender_class(name: str) -> type[Contender]:
    """Raises ImportError where the peer isn't installed."""
    module, _, attribute = {**CONTENDERS, **OTHER_WORK}[name].partition(":")
    found: type[Contender] = getattr(import_module(f"peers.{module}"), attribute)
    return found


def folder_of(name: str, root: Path) -> Path:
    """Return the folder of the contender's data set below `root`."""
    return root / name.replace(", ", "-").replace(" ", "_")
