"""One photograph as the model sees it in validation, straight from its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.config.interpolation import Interpolation
from fasttrain.errors import fault_of_machine
from fasttrain.loaders.plan import CenterShare, centre_boxes
from fasttrain.loaders.torchvision import decode_crop
from fasttrain.photos.cut import native_available
from fasttrain.photos.normalise import BrokenPhoto, directly_decodable, normalise

# Orientations 1 to 8 of Exif: whether the stored picture is transposed, then mirrored left to right and top to bottom.
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


class Unreadable(Exception):
    """A photograph that can't be read or decoded, in a few words."""


def read_photograph(
    path: Path, image_size: int, crop_pct: float = CenterShare.share, interpolation: Interpolation = "bilinear"
) -> torch.Tensor:
    """Return `decode_photograph` of a file. Raises Unreadable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        if fault_of_machine(error):
            raise
        raise Unreadable(error.strerror or str(error)) from None
    return decode_photograph(data, image_size, crop_pct, interpolation)


def decode_photograph(
    data: bytes, image_size: int, crop_pct: float = CenterShare.share, interpolation: Interpolation = "bilinear"
) -> torch.Tensor:
    """Return the centre crop that validation takes, uint8 [image_size, image_size, 3], upright and in sRGB.

    `data` is a file in any format that `convert` takes. crop_pct: the crop's share of the short side, in (0, 1].
    Raises Unreadable.
    """
    try:
        pixels = _decode_directly(data, image_size, crop_pct, interpolation) if native_available() else None
        if pixels is not None:
            return torch.from_numpy(pixels)
        photo = normalise(data, max_size=None, quality=95, cut="none", optimize=False)
        box = centre_boxes(np.array([[photo.height, photo.width]], dtype=np.int32), crop_pct)[0]
        return decode_crop(photo.jpeg, box, False, (image_size, image_size), interpolation=interpolation)
    except (BrokenPhoto, RuntimeError) as error:  # RuntimeError: torchvision's libjpeg
        raise Unreadable(str(error).splitlines()[0]) from None


def _decode_directly(
    data: bytes, image_size: int, crop_pct: float, interpolation: Interpolation
) -> NDArray[np.uint8] | None:
    """Decode no more of a JPEG than the crop. Return None where `normalise` must see the file first."""
    from fasttrain import _native

    header = directly_decodable(data)
    if header is None:
        return None
    transposed, mirrored, flipped = _TURNS[header.orientation]
    height, width = (header.width, header.height) if transposed else (header.height, header.width)
    top, left, side, _ = (int(each) for each in centre_boxes(np.array([[height, width]], dtype=np.int32), crop_pct)[0])
    if mirrored:
        left = width - left - side
    if flipped:
        top = height - top - side
    if transposed:
        top, left = left, top
    try:
        # Reads all of it: what `convert` refuses for its damage is refused here.
        box, size, bicubic = (top, left, side, side), (image_size, image_size), interpolation == "bicubic"
        pixels = _native.decode_intact_crop(data, box, False, size, bicubic)
    except ValueError:  # damaged: `normalise` says how much
        return None
    upright = pixels.transpose(1, 0, 2) if transposed else pixels
    upright = upright[:, ::-1] if mirrored else upright
    return np.ascontiguousarray(upright[::-1] if flipped else upright)
