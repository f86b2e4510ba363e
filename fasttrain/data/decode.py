"""`fasttrain.decode`: turn unconverted photographs into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fasttrain.config.geometry import Geometry, ResizeMode
from fasttrain.config.interpolation import Interpolation
from fasttrain.config.location import user_path
from fasttrain.data.crops import PlannedCrop, evaluation_crop
from fasttrain.data.photograph import Unreadable, decode_photograph, read_photograph
from fasttrain.device import choose_workers
from fasttrain.errors import UserError

Photograph = str | Path | bytes


def decode(
    photographs: Photograph | Sequence[Photograph],
    size: int = 224,
    *,
    crop_pct: float = 0.875,
    resize_mode: ResizeMode = "crop",
    interpolation: Interpolation = "bilinear",
    workers: int | None = None,
) -> torch.Tensor:
    """Return the centre crops of photographs, uint8 [n, size, size, 3].

    If `photographs` is a single photograph and not a sequence, the result is [size, size, 3].

    Each photograph is a path or the bytes of a file, in any format that `convert` accepts. It is turned upright, and
    only the crop of a JPEG is decoded. `crop_pct`: the crop's share of the short side, in (0, 1]. `resize_mode`:
    "squash" or "letterbox" uses the entire photograph instead of a crop. `interpolation`: the antialiased filter,
    "bilinear" or "bicubic". `workers`: threads, by default one per core. Raises UserError, which names the photograph,
    if one can't be read.
    """
    if size < 1 or not 0 < crop_pct <= 1:
        raise UserError(f"decode(size={size}, crop_pct={crop_pct}): give at least 1 px, and crop_pct in (0, 1]")
    crop = evaluation_crop(Geometry(size, crop_pct, resize_mode, interpolation))
    if isinstance(photographs, (str, Path, bytes)):
        return _decode(photographs, "the photograph", crop)
    if not photographs:
        return torch.empty((0, size, size, 3), dtype=torch.uint8)
    with ThreadPoolExecutor(max(choose_workers(workers), 1)) as pool:
        numbered = enumerate(photographs)
        jobs = [pool.submit(_decode, each, f"photograph {number}", crop) for number, each in numbered]
        try:
            return torch.stack([job.result() for job in jobs])
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(photograph: Photograph, name: str, crop: PlannedCrop) -> torch.Tensor:
    try:
        if isinstance(photograph, bytes):
            return torch.from_numpy(decode_photograph(photograph, crop))
        return torch.from_numpy(read_photograph(user_path(photograph), crop))
    except Unreadable as error:
        name = name if isinstance(photograph, bytes) else str(photograph)
        raise UserError(f"{name}: {error}; give photographs that can be opened") from None
