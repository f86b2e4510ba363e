"""Open and decode image files with Pillow, for photographs that can't be stored unchanged."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrain.photos.exif import exif_orientation
from fasttrain.photos.formats import HEAD, PILLOW, sniff, why_not
from fasttrain.photos.jpeg import read_header, without_metadata
from fasttrain.photos.jxl import jxl_size
from fasttrain.photos.png import split_png
from fasttrain.photos.room import Hold
from fasttrain.photos.tiff import (
    has_small_colors,
    read_tags,
    sample_bits,
    silence_libtiff,
    white_is_zero,
    why_not_pixels,
)

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 178_956_970
"""Twice Pillow's `MAX_IMAGE_PIXELS`, the limit at which Pillow reports a decompression bomb."""

_ORIENTATION = 0x0112
_ITEM = re.compile(rb"(infe\x02.{7}|infe\x03.{9})(?:Exif|mime)", re.S)


class BrokenPhoto(Exception):
    """Raised for a photograph that can't be stored. `reason` is one short line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """An image file opened by Pillow, without decoded pixels.

    - `kind`: its format; see `sniff`.
    - `orientation`: the EXIF orientation, 1 to 8.
    - `profile`: its ICC profile, or empty.
    - `bits`: the number of bits per sample.
    - `inverted`: whether the highest sample value is black.
    """

    image: Image
    kind: str
    orientation: int
    profile: bytes
    bits: int = 16
    inverted: bool = False


def open_picture(data: bytes) -> Picture:
    """Open the image in the file contents `data` without decoding its pixels.

    Raises BrokenPhoto if the format isn't supported or the header is damaged.
    """
    kind = sniff(data[:HEAD])
    if reason := why_not(kind):
        raise BrokenPhoto(reason)
    if kind == "JPEG":
        image = open_as(kind, without_metadata(data))
        with contextlib.suppress(ValueError):
            return Picture(image, kind, read_header(data).orientation, _profile(image))
        return Picture(image, kind, 1, _profile(image))
    if kind == "PNG":
        parts = split_png(data)
        return Picture(open_as(kind, parts.pixels), kind, exif_orientation(parts.exif), parts.profile)
    if kind == "TIFF":
        return _open_tiff(data)
    if kind in ("AVIF", "HEIC"):
        # Damaged metadata would raise errors, so their items get an unknown type, which is ignored. The orientation is
        # stored elsewhere in the container.
        image = open_as(kind, _ITEM.sub(rb"\1skip", data))
        turned = exif_orientation(_exif(image)) if kind == "AVIF" else 1
        return Picture(image, kind, turned, _profile(image))
    image = open_as(kind, data)
    orientation = exif_orientation(_exif(image)) if kind == "WebP" else 1
    return Picture(image, kind, orientation, _profile(image))


def picture_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from the header in `data`, without decoding.

    Raises BrokenPhoto if the format isn't supported or the header is damaged.
    """
    kind = sniff(data[:HEAD])
    if reason := why_not(kind):
        raise BrokenPhoto(reason)
    if kind == "JPEG XL":
        return jxl_size(data)
    if kind == "JPEG":
        try:
            header = read_header(data)
        except ValueError as error:
            raise BrokenPhoto(str(error)) from error
        return header.width, header.height
    return open_picture(data).image.size


def decode_picture(picture: Picture) -> Image:
    """Return the decoded image, upright, with 8 bits per sample, in mode L, RGB, RGBA, CMYK or LAB.

    Raises BrokenPhoto if the pixels can't be decoded.
    """
    try:
        picture.image.load()
        return _eight_bits(_upright(picture.image, picture.orientation), picture)
    except (BrokenPhoto, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise many kinds of errors for damaged files
        raise BrokenPhoto(reason_of(picture.kind, error)) from error


def onto_white(image: Image) -> Image:
    """Return an image from `decode_picture` on a white background, in mode L or RGB. Raises BrokenPhoto for mode
    LAB."""
    from PIL import Image

    if image.mode == "LAB":
        raise BrokenPhoto("CIELAB colours without a profile: save the photograph as RGB")
    if image.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


@contextlib.contextmanager
def opened(data: bytes, hold: Hold) -> Iterator[Picture]:
    """Return a context with the opened image.

    `hold`, see `normalize`, is called with the image's number of pixels. Raises BrokenPhoto if the format isn't
    supported or the header is damaged.
    """
    # The plugin for JPEG XL decodes a file when it opens it, so the size is read from the header.
    picture = None if sniff(data[:HEAD]) == "JPEG XL" else open_picture(data)
    width, height = picture.image.size if picture else jxl_size(data)
    with hold(width * height):
        yield picture or open_picture(data)


def jpeg_in_jxl(data: bytes) -> bytes | None:
    """Return the JPEG from which the JPEG XL `data` was losslessly made, or None if it can't be restored."""
    if b"jbrd" not in data[:4096] or why_not("JPEG XL"):
        return None
    from pillow_jxl import Decoder

    try:
        was_jpeg, _, jpeg, *_ = Decoder(num_threads=1)(data)
    except MemoryError:
        raise
    except Exception:  # the plugin reports this error when it opens the file
        return None
    return bytes(jpeg) if was_jpeg else None


def check_pixels(width: int, height: int) -> None:
    """Raise BrokenPhoto for an image with more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise BrokenPhoto(f"{width}x{height} px is more than {MAX_PIXELS:,} pixels, perhaps a decompression bomb")


def _open_tiff(data: bytes) -> Picture:
    """Open a TIFF so that Pillow reads nothing but its pixels, its orientation and its profile."""
    silence_libtiff()
    if reason := why_not_pixels(data):
        raise BrokenPhoto(reason)
    image = open_as("TIFF", data)
    # Pillow rotates a TIFF when it loads it, by metadata that may be unreadable. So only the orientation tag is kept.
    with contextlib.suppress(Exception):
        image.getexif()
    exif = image.getexif()
    for tag in list(exif):
        del exif[tag]
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    found = image.tag_v2.get(_ORIENTATION)  # type: ignore[attr-defined]
    if found in range(2, 9):
        exif[_ORIENTATION] = found
    if image.mode == "P" and has_small_colors(data):
        _widen(image)
    tags = read_tags(data)
    return Picture(image, "TIFF", 1, _profile(image), sample_bits(tags), white_is_zero(tags))


def _widen(image: Image) -> None:
    """Replace a palette whose colours have 8 bits where TIFF requires 16."""
    from PIL import ImagePalette

    colors = bytes(image.tag_v2[320])  # type: ignore[attr-defined]
    image.palette = ImagePalette.raw("RGB;L", colors)


@functools.cache
def _register() -> None:
    """Load Pillow's plugins, and those of installed packages for other formats."""
    from PIL import Image

    Image.init()
    logging.getLogger("PIL").addHandler(
        logging.NullHandler()
    )  # otherwise Python prints Pillow's warnings about odd files
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401 - registers itself


def open_as(kind: str, data: bytes) -> Image:
    """Open the image `data` with Pillow's plugin for the format `kind`. The pixels are not decoded yet.

    Raises BrokenPhoto if Pillow lacks the format, or if the header is damaged.
    """
    from PIL import Image

    _register()
    if PILLOW[kind] not in Image.OPEN:
        raise BrokenPhoto(f"{kind} is not supported by this version of Pillow: pip install --upgrade pillow")
    plugin, _ = Image.OPEN[PILLOW[kind]]
    try:
        image: Image.Image = plugin(io.BytesIO(data), "")
    except MemoryError:
        raise
    except Exception as error:  # see `decode_picture`
        raise BrokenPhoto(reason_of(kind, error)) from error
    check_pixels(*image.size)  # Pillow's own limit is a setting of the process
    return image


def _profile(image: Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


def _exif(image: Image) -> bytes:
    exif = image.info.get("exif")
    return exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""


def _upright(image: Image, orientation: int) -> Image:
    """Return the image rotated and mirrored by an EXIF orientation."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _eight_bits(image: Image, picture: Picture) -> Image:
    """Return the image with 8 bits per sample."""
    from PIL import Image

    if image.mode == "F":
        raise BrokenPhoto("floating-point pixels have no known range: save the photograph with 8 or 16 bits")
    if image.mode.startswith("I"):
        import numpy as np

        most = (1 << picture.bits) - 1
        samples = np.asarray(image).astype(np.int64).clip(0, most)
        grey = Image.fromarray(((most - samples if picture.inverted else samples) * 255 // most).astype(np.uint8))
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
            return grey.convert("RGBA")
        return grey
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        return image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def reason_of(kind: str, error: Exception) -> str:
    """Return in one line why a file of the format `kind` could not be decoded."""
    reason = str(error).partition(". ")[0]  # some plugins continue with advice on how to compile them
    reason = " ".join(reason.split()) or type(error).__name__
    if "truncated" in reason.lower():
        return f"truncated: {reason.removeprefix('truncated: ')}"
    if isinstance(error, BrokenPhoto):
        return reason
    return f"{kind} that is damaged or of an unsupported kind: {reason}"
