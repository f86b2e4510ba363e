"""Find the Linux control groups (cgroups) that limit the memory and CPU time of a container or a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def cgroup_folders(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of each cgroup that limits this process, from its own cgroup up to the root.

    `controller` is "memory" or "cpu". cgroups version 1 has one hierarchy per controller, version 2 has one for all.
    Yields nothing on a system without cgroups.
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
