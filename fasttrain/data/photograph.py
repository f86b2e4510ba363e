"""Read a photograph from its file, and crop and resize it as in validation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.data.crops import PlannedCrop, as_crop
from fasttrain.errors import fault_of_machine
from fasttrain.loaders.plan import LETTERBOX_GREY, Batch, EpochPlan, View, letterbox_size
from fasttrain.photos.cut import native_available
from fasttrain.photos.normalize import BrokenPhoto, StoredPhoto, directly_decodable, normalize

# Exif orientations 1 to 8: whether the stored image is transposed, then mirrored horizontally and vertically.
_EXIF_TRANSFORMS = {
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
    """Raised if a photograph can't be read or decoded. The message is a short reason."""


def read_photograph(path: Path, crop: PlannedCrop | int) -> NDArray[np.uint8]:
    """Read the photograph at `path`, and decode it as `decode_photograph` does. Raises Unreadable if that fails."""
    try:
        data = path.read_bytes()
    except OSError as error:
        if fault_of_machine(error):
            raise
        raise Unreadable(error.strerror or str(error)) from None
    return decode_photograph(data, crop)


def decode_photograph(data: bytes, crop: PlannedCrop | int) -> NDArray[np.uint8]:
    """Decode a photograph into pixels, cropped and resized as in validation.

    Returns uint8 [size, size, 3], upright, in sRGB. `data`: the bytes of a file in any format that `convert` accepts.
    `crop`: a `CenterCrop` or `Resize`, or the size of a centre crop in pixels. Raises Unreadable if decoding fails.
    """
    view = as_crop(crop, training=False).view(hflip=0, vflip=0)
    try:
        pixels = _decode_directly(data, view) if native_available() else None
        if pixels is not None:
            return pixels
        photo = normalize(data, max_size=None, quality=95, cut="none", optimize=False)
        return _decode_normalized(photo, view)
    except BrokenPhoto as error:
        raise Unreadable(str(error).splitlines()[0]) from None


def _decode_normalized(photo: StoredPhoto, view: View) -> NDArray[np.uint8]:
    """Decode with Pillow, which avoids the seconds of importing torch.

    Its filters differ from torchvision's by at most one grey level.
    """
    from PIL import Image

    planned = _planned(photo.height, photo.width, view)
    top, left, height, width = planned.boxes[0].tolist()
    rows, columns = letterbox_size(height, width, view.size) if planned.letterbox else planned.size
    try:
        with Image.open(io.BytesIO(photo.jpeg)) as image:
            crop = image.convert("RGB").crop((left, top, left + width, top + height))
    except OSError as error:  # a damaged JPEG, which is only found here if the native module is missing
        raise Unreadable(str(error).splitlines()[0]) from None
    pixels = np.array(crop.resize((columns, rows), Image.Resampling[planned.interpolation.upper()]))
    return _letterboxed(pixels, view.size) if planned.letterbox else pixels


def _planned(height: int, width: int, view: View) -> Batch:
    """Return the plan of a single upright photograph."""
    sizes = np.array([[height, width]], dtype=np.int32)
    return EpochPlan.in_order(np.zeros(1, np.int64), sizes, seed=0, epoch=0, size=view.size, crop=view.crop)


def _decode_directly(data: bytes, view: View) -> NDArray[np.uint8] | None:
    """Decode only the crop of a JPEG. Return None if `normalize` must handle the file first."""
    from fasttrain import _native

    header = directly_decodable(data)
    if header is None:
        return None
    transposed, mirrored, flipped = _EXIF_TRANSFORMS[header.orientation]
    height, width = (header.width, header.height) if transposed else (header.height, header.width)
    planned = _planned(height, width, view)
    top, left, box_height, box_width = planned.boxes[0].tolist()
    size = letterbox_size(box_height, box_width, view.size) if planned.letterbox else planned.size
    if mirrored:
        left = width - left - box_width
    if flipped:
        top = height - top - box_height
    box = top, left, box_height, box_width
    if transposed:
        box, size = (left, top, box_width, box_height), (size[1], size[0])
    try:
        # This reads the complete file, so damage that `convert` refuses is refused here, too.
        pixels = _native.decode_intact_crop(data, box, False, size, planned.interpolation == "bicubic")
    except ValueError:  # damaged: `normalize` finds out how much
        return None
    upright = pixels.transpose(1, 0, 2) if transposed else pixels
    upright = upright[:, ::-1] if mirrored else upright
    upright = upright[::-1] if flipped else upright
    return _letterboxed(upright, view.size) if planned.letterbox else np.ascontiguousarray(upright)


def _letterboxed(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return `pixels` in the middle of a grey square, uint8 [side, side, 3]."""
    square = np.full((side, side, 3), LETTERBOX_GREY, dtype=np.uint8)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square
