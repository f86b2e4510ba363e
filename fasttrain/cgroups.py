"""Linux's control groups, which limit what a container or a job may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def cgroup_folders(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of each cgroup that limits this process, its own first, then those around it.

    `controller` is "memory" or "cpu". Version 1 has a hierarchy for each controller, version 2 one for all. Nothing is
    yielded on a system without cgroups.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            version, root = 2, _ROOT
        elif controller in controllers.split(","):
            version, root = 1, _ROOT / controller
        else:
            continue
        folder = root / path.strip("/")
        yield from ((version, each) for each in (folder, *folder.parents) if each.is_relative_to(root))
