"""The cut: rewrite JPEGs losslessly, so that a loader can copy the part under a crop without decoding the rest.

A restart marker ends an MCU's entropy-coded data at a byte boundary and resets the DC predictions. If there is one
after every MCU, any rectangle of MCUs becomes a JPEG by setting its size in the SOF segment and renumbering the markers
(ITU-T T.81). The nearest published use of boundaries in the entropy-coded data is parallel decoding on GPUs: Wang, Luo,
Yan, ICPADS 2020, doi 10.1109/ICPADS51040.2020.00045. The Huffman codes of a file are replaced one by one if
possible. Otherwise the file is rewritten through the coefficients that libjpeg-turbo reads.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Literal

from fasttrain.errors import UserError
from fasttrain.machine import native_fix

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fasttrain._native import JpegInfo

Interval = Literal["mcu", "row", "none"]


def native_available() -> bool:
    """Return whether fasttrain's C++ module is installed."""
    try:
        import fasttrain._native  # noqa: F401
    except ImportError:
        return False
    return True


def _native() -> ModuleType:
    """Return the C++ module. Raises UserError if it can't be loaded."""
    try:
        import fasttrain._native as native
    except ImportError as error:
        raise UserError(
            f"cutting JPEGs needs fasttrain's C++ module, which can't be loaded ({error}): {native_fix()}; or pass "
            "`--cut none`"
        ) from error
    return native


def cut_jpeg(data: Buffer, interval: Interval = "mcu", optimize: bool = True, orientation: int = 1) -> bytes:
    """Return the JPEG `data` rewritten as one interleaved baseline scan with the same DCT coefficients, and so the same
    pixels.

    - `interval`: put a restart marker after every MCU ("mcu"), after every row of MCUs ("row"), or nowhere ("none").
    - `optimize`: make Huffman tables for this photograph. Otherwise libjpeg's standard tables are used.
    - `orientation`: EXIF's orientation, 1 to 8, which is applied losslessly to the coefficients.

    Only JFIF's and Adobe's markers are kept; EXIF and comments are removed. Accepts 1 to 4 components of 8 bits, and at
    most 500 megapixels.

    Raises ValueError with "orientation: ..." if a mirrored side isn't a multiple of the MCU, so that the image must be
    encoded again. Raises ValueError with "truncated: ..." or another short reason if libjpeg can't read the complete
    file without a warning. Raises UserError if the C++ module isn't installed.
    """
    result: bytes = _native().cut(data, interval, optimize, orientation)
    return result


def repair_jpeg(data: Buffer) -> tuple[bytes, float]:
    """Return a damaged JPEG without the damage, and the share of its pixels that is intact.

    The result has the pixels that libjpeg decodes from the damaged file, and no metadata.

    The share, 0 to 1, is the number of MCUs before the first error, divided by all MCUs. If there are several scans,
    the worst one counts, except for scans of a progressive JPEG that only add the last bit to coefficients. A restart
    marker with a wrong number is not an error if libjpeg ignores it and no MCU is missing.

    Raises ValueError if libjpeg can't decode any part of the file, and UserError if the C++ module isn't installed.
    """
    result: tuple[bytes, float] = _native().repair(data, "none", False)
    return result


def slice_jpeg(data: Buffer, box: tuple[int, int, int, int]) -> tuple[bytes, int, int]:
    """Return (JPEG, top, left): the part of a cut JPEG that holds `box`, and the position of the box in that part.

    `data` is a result of `cut_jpeg` with restart markers. `box` is (top, left, height, width) in pixels of the full
    image, and the returned position is in pixels. The pixels in the box are identical to those of the full image,
    because the part has a margin of one MCU on each side for upsampling. If the file was cut by row, the part consists
    of complete rows.

    Raises ValueError for a file that isn't cut, a box that is empty or not inside the image, or restart markers that
    don't fit the image's size. Raises UserError if the C++ module isn't installed.
    """
    result: tuple[bytes, int, int] = _native().slice(data, *box)
    return result


def jpeg_info(data: Buffer) -> JpegInfo:
    """Return what a JPEG's header says, as a dict.

    The keys are width and height (in pixels), components, sampling ("4:2:0", "grey", …), progressive, restart_interval
    (in MCUs) and adobe_transform (the colour transform, or None without Adobe's segment).

    Raises ValueError if it is not a JPEG, ends before its scan, or has more than 4 components or 500 megapixels. Raises
    UserError if the C++ module isn't installed.
    """
    info: JpegInfo = _native().jpeg_info(data)
    return info
