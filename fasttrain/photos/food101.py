"""Food-101 (Bossard, Guillaumin, Van Gool, ECCV 2014), by torchvision's own download and checksum."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tarfile
from pathlib import Path

from fasttrain.errors import UserError, mendable

_INSTEAD = "use --source sample (built in) or --source DIR (a folder of yours)"
_SILENCE_S = 60.0


def download_food101(cache: Path) -> Path:
    """The folder `cache`/food-101 with `images/` and `meta/`, downloaded (5 GB) and unpacked once.

    It appears under its name only when it is whole; the archive of an interrupted unpacking is
    used again. Raises UserError where the network, the checksum or the disk fails.
    """
    done = cache / "food-101"
    if done.is_dir():
        return done
    from torchvision.datasets import Food101

    # torchvision takes a half-unpacked folder for a whole one, so it may only ever see one of its own making.
    staging = cache / "food-101.partial"
    shutil.rmtree(staging / "food-101", ignore_errors=True)
    waits = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        Food101(str(staging), split="train", download=True)
        os.sync()  # 101,000 files, whose names may reach the disk before what is in them
        (staging / "food-101").rename(done)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        with contextlib.suppress(OSError):
            staging.rmdir()
        # urllib's errors are OSErrors, a wrong checksum is torchvision's RuntimeError.
        why = " ".join(str(getattr(error, "reason", error)).split())
        raise mendable(error, staging, "set FASTTRAIN_CACHE to a folder with room for it") or UserError(
            f"Food-101 can't be downloaded into {cache} ({why}): {_INSTEAD}"
        ) from error
    finally:
        socket.setdefaulttimeout(waits)
    shutil.rmtree(staging)
    return done
