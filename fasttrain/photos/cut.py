"""The cut: rewrite JPEGs losslessly so that the part under a crop can be copied out without decoding.

A restart marker ends an MCU's entropy-coded data at a byte and resets the DC predictions. With one after every MCU,
any rectangle of MCUs becomes a JPEG once SOF has its size and the markers are renumbered (ITU-T T.81). The nearest
published use of boundaries in the entropy-coded data is parallel decoding on GPUs: Wang, Luo, Yan, ICPADS 2020, doi
10.1109/ICPADS51040.2020.00045. Huffman codes are exchanged one by one. Files for which that is impossible are
rewritten through libjpeg-turbo's coefficients.
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
    """Return whether fasttrain was installed with its C++ module."""
    try:
        import fasttrain._native  # noqa: F401
    except ImportError:
        return False
    return True


def _native() -> ModuleType:
    try:
        import fasttrain._native as native
    except ImportError as error:
        raise UserError(
            f"cutting JPEGs needs fasttrain's C++ module, which can't be loaded ({error}): {native_fix()}; or pass "
            "`--cut none`"
        ) from error
    return native


def cut_jpeg(data: Buffer, interval: Interval = "mcu", optimize: bool = True, orientation: int = 1) -> bytes:
    """Return a JPEG with the same DCT coefficients, and so bit-identical pixels, as one interleaved baseline scan.

    `interval`: a restart marker after every MCU, after every MCU row, or none. `optimize`: make Huffman tables for
    this photograph. `orientation`: EXIF's 1..8, applied losslessly to the coefficients. Only JFIF's and Adobe's
    markers are kept; EXIF and comments are removed. Accepts 1 to 4 components of 8 bits, and at most 500 megapixels.

    Raises ValueError: "orientation: ..." if a mirrored side isn't a multiple of the MCU (re-encode then), and
    "truncated: ..." or another short reason if libjpeg can't read the complete file without a warning. Raises
    UserError without the C++ module.
    """
    result: bytes = _native().cut(data, interval, optimize, orientation)
    return result


def repair_jpeg(data: Buffer) -> tuple[bytes, float]:
    """Return a damaged JPEG as libjpeg shows it, without damage or metadata, and the share that is intact.

    The share, 0 to 1, counts the MCUs before the first error. With several scans the worst counts, except those of a
    progressive JPEG that only add the last bit to coefficients. A restart marker with a wrong number is no error if
    libjpeg ignores it and no MCU is missing.

    Raises ValueError if libjpeg shows nothing, and UserError without the C++ module.
    """
    result: tuple[bytes, float] = _native().repair(data, "none", False)
    return result


def slice_jpeg(data: Buffer, box: tuple[int, int, int, int]) -> tuple[bytes, int, int]:
    """Return the part of a cut JPEG that holds `box`, (top, left, height, width) in pixels, as (jpeg, top, left).

    `top` and `left` are the position of the box in the decoded slice. The pixels there equal those of the full image
    bit for bit, because an MCU of margin on each side feeds the upsampling. A file cut by row gives complete rows.

    Raises ValueError for a file that isn't cut, a box that is empty or not inside the image, or restart markers that
    don't fit the image's size. Raises UserError without the C++ module.
    """
    result: tuple[bytes, int, int] = _native().slice(data, *box)
    return result


def jpeg_info(data: Buffer) -> JpegInfo:
    """Return a JPEG's header: size in pixels, sub-sampling, restart interval in MCUs, Adobe's transform.

    Raises ValueError if it is not a JPEG, ends before its scan, or has more than 4 components or 500 megapixels.
    Raises UserError without the C++ module.
    """
    info: JpegInfo = _native().jpeg_info(data)
    return info
