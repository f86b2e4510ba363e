"""Any photograph to what the shards hold: a JPEG, its bytes kept where they can be, or pixels."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrain.photos.cut import Interval, cut_jpeg, native_available
from fasttrain.photos.jpeg import JpegHeader, is_jpeg, read_header, require_few_scans, strip_metadata

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 178_956_970
"""Twice Pillow's `MAX_IMAGE_PIXELS`, where Pillow itself calls a picture a decompression bomb."""

_MAX_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")


class BrokenPhoto(Exception):
    """A photograph that can't be stored; `reason` is one short line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class StoredPhoto:
    """`jpeg`, 8 bits a sample, grey or three components; its size in pixels; what was done, for the counts.

    The first of `how` is "as-is", "stripped" (metadata taken off), "rotated" (losslessly) or
    "re-encoded: WHY"; "resized" and "cut" may follow.
    """

    jpeg: bytes
    width: int
    height: int
    how: tuple[str, ...]


@dataclass(frozen=True)
class RawPhoto:
    """`pixels`: uint8 RGB in rows, `height` x `width` x 3 bytes; what was done, for the counts.

    The first of `how` is "decoded: KIND"; "rotated" and "resized" may follow.
    """

    pixels: bytes
    width: int
    height: int
    how: tuple[str, ...]


def normalise(
    data: bytes,
    *,
    max_size: int | None = None,
    quality: int = 95,
    cut: Interval = "none",
    optimize: bool = True,
) -> StoredPhoto:
    """The JPEG to store for the file `data`, upright and without private metadata.

    The content says what a file is, not its name. A JPEG that every loader reads keeps its coefficients, and
    with `cut` "none" its very bytes but for the metadata (see `strip_metadata`). Its EXIF orientation is
    baked in losslessly where the C++ module is there and the sides are multiples of the MCU. All else is
    decoded, laid onto white where it is transparent, and encoded once, 4:2:0, at `quality` (1 to 100).
    `max_size` bounds the longest side in pixels. `cut` other than "none" (needs the C++ module) rewrites
    each JPEG by `cut_jpeg`; `optimize` chooses optimal Huffman tables for what is rewritten or encoded.

    Every photograph is decoded in full, or its coefficients are all read. Raises BrokenPhoto for what is
    truncated, not a photograph, or of more than MAX_PIXELS.
    """
    if header := _header(data):
        why = _why_not_kept(header, max_size)
        if why is None:
            kept = _kept(data, header, cut, optimize)
            if isinstance(kept, StoredPhoto):
                return kept
            why = kept
        image = _open(data)
    else:
        image = _open(data)
        why = str(image.format).lower()
    return _encode(_upright(image), why, max_size, quality, cut, optimize)


def decode(data: bytes, *, max_size: int) -> RawPhoto:
    """The pixels to store for the file `data`: upright, on white where it is transparent, grey as RGB.

    They equal Pillow's, shrunk by the same filter as `normalise`'s where the longest side exceeds `max_size`.
    Raises BrokenPhoto as `normalise` does.
    """
    header = _header(data)
    image = _open(data)
    how = ["decoded: " + ((_why_not_kept(header, None) or "jpeg") if header else str(image.format).lower())]
    if header and header.orientation != 1:
        how.append("rotated")
    image = _upright(image)
    if _shrink(image, max_size):
        how.append("resized")
    return RawPhoto(image.convert("RGB").tobytes(), image.width, image.height, tuple(how))


def _header(data: bytes) -> JpegHeader | None:
    """None for what isn't a JPEG."""
    if not data:
        raise BrokenPhoto("empty file")
    if not is_jpeg(data):
        return None
    try:
        header = read_header(data)
        require_few_scans(data)
    except ValueError as error:
        raise BrokenPhoto(str(error)) from error
    _check_pixels(header.width, header.height)
    return header


def _why_not_kept(header: JpegHeader, max_size: int | None) -> str | None:
    if header.frame > 2:
        return f"JPEG of kind SOF{header.frame}"
    if header.precision != 8:
        return f"{header.precision}-bit JPEG"
    if header.components not in (1, 3):
        return "CMYK JPEG" if header.components == 4 else f"JPEG of {header.components} components"
    if any(not factor or max(axis) % factor for axis in zip(*header.sampling, strict=True) for factor in axis):
        return "JPEG of fractional sampling"  # libjpeg reads its coefficients, but refuses its pixels
    if max_size is not None and max(header.width, header.height) > max_size:
        return "size"
    return None


def _kept(data: bytes, header: JpegHeader, cut: Interval, optimize: bool) -> StoredPhoto | str:
    """The photograph with its coefficients kept, or why it must be re-encoded."""
    try:
        stripped = strip_metadata(data)
    except ValueError as error:
        raise BrokenPhoto(f"truncated: {error}") from error
    first = "as-is" if stripped == data else "stripped"
    turned = header.orientation != 1
    if cut == "none" and not turned:
        _read_every_scan(data)
        return StoredPhoto(stripped, header.width, header.height, (first,))
    if not native_available():
        return "orientation"
    try:
        jpeg = cut_jpeg(stripped, cut, optimize, header.orientation)
    except ValueError as error:
        reason = str(error)
        if reason.startswith("truncated:"):
            raise BrokenPhoto(reason) from error
        # Stray bytes make libjpeg warn, and the cutter refuse; the pixels may be well: the decoder decides.
        return "orientation" if reason.startswith("orientation:") else "damaged JPEG"
    width, height = (header.height, header.width) if header.orientation > 4 else (header.width, header.height)
    done = "rotated" if turned else first
    return StoredPhoto(jpeg, width, height, (done,) if cut == "none" else (done, "cut"))


def _read_every_scan(data: bytes) -> None:
    # At an eighth of the size every Huffman code is still read, but the IDCT all but falls away.
    image = _open(data)
    image.draft("L", (1, 1))
    _load(image)


def _upright(image: Image) -> Image:
    """Decoded, mode L or RGB, EXIF orientation applied."""
    from PIL import ImageOps

    _load(image)
    try:
        return _onto_white(ImageOps.exif_transpose(image))
    except (BrokenPhoto, MemoryError):
        raise
    except Exception as error:  # metadata and palettes of damaged files fail in as many ways as pixels
        raise BrokenPhoto(_reason(error)) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise BrokenPhoto("not a photograph: no known picture format") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise all kinds on damaged files
        raise BrokenPhoto(_reason(error)) from error
    _check_pixels(*image.size)  # Pillow's own limit is a setting of the process
    return image


def _load(image: Image) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise BrokenPhoto(_reason(error)) from error


def _onto_white(image: Image) -> Image:
    from PIL import Image

    if image.mode == "F":
        raise BrokenPhoto("floating-point pixels have no known range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        import numpy as np

        return Image.fromarray((np.asarray(image).clip(0, 65_535) // 257).astype(np.uint8))
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _shrink(image: Image, max_size: int | None) -> bool:
    """In place; whether it had to."""
    from PIL.Image import Resampling

    if max_size is None or max(image.size) <= max_size:
        return False
    image.thumbnail((max_size, max_size), Resampling.LANCZOS, reducing_gap=3.0)
    return True


def _encode(image: Image, why: str, max_size: int | None, quality: int, cut: Interval, optimize: bool) -> StoredPhoto:
    how = ["resized"] if _shrink(image, max_size) else []
    if max(image.size) > _MAX_SIDE:
        raise BrokenPhoto(f"{image.width}x{image.height} is longer than a JPEG's {_MAX_SIDE:,} px; use --max-size")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0", optimize=optimize)
    jpeg = file.getvalue()
    if cut != "none":
        jpeg = cut_jpeg(jpeg, cut, optimize)
        how.append("cut")
    return StoredPhoto(jpeg, image.width, image.height, (f"re-encoded: {why}", *how))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenPhoto(f"{width}x{height} px is more than {MAX_PIXELS:,}: a decompression bomb?")


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return f"truncated: {said}" if "truncated" in said.lower() and not said.startswith("truncated") else said
