"""Convert a photograph to the form in which shards store it: a JPEG, whose coefficients are kept if possible, or
pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from fasttrain.photos.color import MOST_LEVELS, Color, Profile, read_profile
from fasttrain.photos.cut import Interval, cut_jpeg, native_available, repair_jpeg
from fasttrain.photos.formats import HEAD, PILLOW, sniff
from fasttrain.photos.jpeg import JpegHeader, read_header, require_few_scans, strip_metadata, with_metadata_of
from fasttrain.photos.jxl import jxl_size
from fasttrain.photos.pictures import MAX_PIXELS as MAX_PIXELS
from fasttrain.photos.pictures import BrokenPhoto as BrokenPhoto
from fasttrain.photos.pictures import (
    Picture,
    check_pixels,
    decode_picture,
    jpeg_in_jxl,
    onto_white,
    open_as,
    open_picture,
    opened,
    reason_of,
)
from fasttrain.photos.room import COEFFICIENTS, Hold, unbounded

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self

_MAX_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
_UNTOUCHED = ("as-is", "stripped", "cut")
ACCEPT_DAMAGED = 0.98
"""The default share of a damaged JPEG that must be intact for it to be stored."""
_TRANSCODABLE = (0, 1, 2, 9, 10)  # SOFn whose coefficients libjpeg reads
_COMPONENTS = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class _Outcome:
    """The result for one photograph: its size in pixels, and how it was made.

    `how` lists the steps, which are counted over all photographs. `notes` are details about this photograph.
    """

    width: int
    height: int
    how: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Return how the stored photograph differs from its file, or "" if its JPEG coefficients are the same."""
        return "; ".join([*(how for how in self.how if how not in _UNTOUCHED), *self.notes])

    def marked_damaged(self, note: str) -> Self:
        """Return a copy with "damaged" in `how` and with `note` in `notes`."""
        how = tuple("stripped" if each == "as-is" else each for each in self.how)
        return replace(self, how=(*how, "damaged"), notes=(note, *self.notes))


@dataclass(frozen=True)
class StoredPhoto(_Outcome):
    """A photograph as a JPEG of 8 bits per sample, with one grey component or three components.

    The first step in `how` is "as-is", "stripped" (metadata removed), "rotated" (losslessly) or "re-encoded: REASON".
    These may follow: "color converted" (to sRGB), "color kept" (in another ICC profile), "resized", "cut", "damaged".
    """

    jpeg: bytes


@dataclass(frozen=True)
class RawPhoto(_Outcome):
    """A photograph as pixels: uint8 RGB in rows, `height` x `width` x 3 bytes.

    The first step in `how` is "decoded: FORMAT". These may follow: "rotated", "color converted" (to sRGB), "color kept"
    (from another ICC profile, without conversion), "resized", "damaged".
    """

    pixels: bytes


def normalize(
    data: bytes,
    *,
    max_size: int | None = None,
    quality: int = 95,
    cut: Interval = "none",
    optimize: bool = True,
    color: Color = "auto",
    accept_damaged: float = ACCEPT_DAMAGED,
    hold: Hold = unbounded,
) -> StoredPhoto:
    """Return the photograph in the file contents `data` as a JPEG for storage, upright and without private metadata.

    The format is recognized by the content, not by a name. A JPEG that every loader can read keeps its coefficients.
    With `cut` "none" such a JPEG keeps its bytes, except for metadata (see `strip_metadata`). Its EXIF orientation is
    applied losslessly if the C++ module is installed and the sides are multiples of the MCU. Any other photograph is
    decoded, put on white if it is transparent, and encoded once, with 4:2:0 subsampling.

    - `max_size`: the largest allowed side in pixels; larger photographs are shrunk.
    - `quality`: JPEG quality of encoded photographs, 1 to 100.
    - `cut`: "mcu" or "row" rewrites each JPEG with restart markers (see `cut_jpeg`), which needs the C++ module.
    - `optimize`: make optimal Huffman tables for JPEGs that are rewritten or encoded.
    - `color`: "auto" converts to sRGB if an ICC profile moves the colours by more than MOST_LEVELS on average, "srgb"
      converts from any other profile, and "keep" never converts.
    - `accept_damaged`: the share of a damaged JPEG, 0 to 1, that must be intact (see `repair_jpeg`). The photograph is
      then stored with the pixels that libjpeg decodes. Without the C++ module, damage in the codes is not noticed, and
      a truncated JPEG is broken.
    - `hold`: a function that takes a number of pixels and returns a context. The context is entered before memory for
      that many pixels is used.

    Damage is found because every photograph is decoded completely, or all coefficients of its JPEG are read. Raises
    BrokenPhoto if `data` is not a photograph, if too little of it is intact, or if it has more than MAX_PIXELS.
    """

    def stored(data: bytes) -> StoredPhoto:
        header = _header(data)
        why = _why_not_kept(header, max_size) if header else None
        if header and why is None:
            with hold(_coefficients(header)):
                kept = _kept(data, header, cut, optimize, color)
            if isinstance(kept, StoredPhoto):
                return kept
            why = kept
        elif header:
            _require_intact(data, header, hold)
        with opened(data, hold) as picture:
            image, done = _pixels(picture, color)
            return _encode(image, why or PILLOW[picture.kind].lower(), max_size, quality, cut, optimize, done)

    return _repaired_if_damaged(stored, _unpacked(data, hold), accept_damaged, hold)


def decode(
    data: bytes,
    *,
    max_size: int,
    color: Color = "auto",
    accept_damaged: float = ACCEPT_DAMAGED,
    hold: Hold = unbounded,
) -> RawPhoto:
    """Return the photograph in the file contents `data` as pixels: upright, on white if it is transparent, grey as RGB.

    The pixels equal Pillow's. They are shrunk as in `normalize` if the longest side exceeds `max_size`. `color`,
    `accept_damaged` and `hold` are arguments of `normalize`. Raises BrokenPhoto in the same cases as `normalize`.
    """

    def decoded(data: bytes) -> RawPhoto:
        header = _header(data)
        if header:
            _require_intact(data, header, hold)
        with opened(data, hold) as picture:
            how = ["decoded: " + ((_why_not_kept(header, None) or "jpeg") if header else PILLOW[picture.kind].lower())]
            if header and header.orientation != 1:
                how.append("rotated")
            image, done = _pixels(picture, color)
            how += done.how
            if _shrink(image, max_size):
                how.append("resized")
            return RawPhoto(image.width, image.height, tuple(how), done.notes, image.convert("RGB").tobytes())

    return _repaired_if_damaged(decoded, _unpacked(data, hold), accept_damaged, hold)


_AnyPhoto = TypeVar("_AnyPhoto", StoredPhoto, RawPhoto)


class _Damaged(BrokenPhoto):
    """Raised for a JPEG of which libjpeg can decode only a part."""


def _repaired_if_damaged(store: Callable[[bytes], _AnyPhoto], data: bytes, accept: float, hold: Hold) -> _AnyPhoto:
    """Return `store(data)` or, if the JPEG is damaged, `store` of the repaired JPEG.

    Raises BrokenPhoto if less than the share `accept` of a damaged JPEG is intact.
    """
    try:
        return store(data)
    except _Damaged as damage:
        try:
            header = read_header(data)
            with hold(header.width * header.height // COEFFICIENTS):
                jpeg, intact = repair_jpeg(data)
        except ValueError:
            raise damage from None
        share = f"{math.floor(intact * 10_000) / 100:g} % of the picture is known to be intact"
        if intact < accept:
            raise BrokenPhoto(f"{damage.reason}; {share}, less than {accept * 100:g} %") from damage
        return store(with_metadata_of(data, jpeg)).marked_damaged(share)


def _require_intact(data: bytes, header: JpegHeader, hold: Hold) -> None:
    """Raise _Damaged for a JPEG with damaged codes, which Pillow would decode to wrong pixels."""
    if not native_available() or header.frame not in _TRANSCODABLE or header.components > 4:
        return
    try:
        with hold(_coefficients(header)):
            cut_jpeg(data, "none", optimize=False)
    except ValueError as error:
        raise _Damaged(_damage(error)) from error


def _coefficients(header: JpegHeader) -> int:
    """Return the memory that a JPEG's coefficients take, as a number of pixels with the same memory.

    It is 0 for upright sequential JPEGs, because they are read MCU by MCU.
    """
    mcu_by_mcu = header.frame in (0, 1) and header.orientation == 1
    return 0 if mcu_by_mcu else header.width * header.height // COEFFICIENTS


def _damage(error: ValueError) -> str:
    """Return the reason in an error of `cut_jpeg`, in one line."""
    reason = str(error)
    return reason if reason.startswith("truncated:") else f"damaged JPEG: {reason.partition(': ')[2] or reason}"


def directly_decodable(data: bytes) -> JpegHeader | None:
    """Return the header of a JPEG whose pixels need no change, except for its orientation. Return None for anything
    else."""
    if sniff(data[:HEAD]) != "JPEG":
        return None
    try:
        header = read_header(data)
    except ValueError:
        return None
    if header.precision != 8 or header.width * header.height > MAX_PIXELS or _why_not_kept(header, None):
        return None
    return None if header.profile and read_profile(header.profile, _COMPONENTS[header.components]) else header


def _unpacked(data: bytes, hold: Hold) -> bytes:
    """Return the JPEG from which a JPEG XL was made, if it can be restored, and `data` otherwise."""
    if sniff(data[:HEAD]) != "JPEG XL":
        return data
    width, height = jxl_size(data)
    check_pixels(width, height)
    with hold(width * height):
        return jpeg_in_jxl(data) or data


@dataclass(frozen=True)
class _Colors:
    """The entries of `_Outcome.how` and `_Outcome.notes` for a photograph's colours."""

    how: tuple[str, ...]
    notes: tuple[str, ...]


_NO_PROFILE = _Colors((), ())
_CONVERTED, _KEPT = ("color converted",), ("color kept",)


def _judge(profile: Profile, image: Callable[[], Image], color: Color) -> _Colors:
    """Decide whether a photograph's colours are converted to sRGB. `image` returns its pixels, which are only needed
    for "auto"."""
    if color == "keep":
        return _Colors(_KEPT, (f"profile {profile.name!r} kept",))
    levels = profile.levels(image())
    convert = color == "srgb" or levels > MOST_LEVELS
    note = f"profile {profile.name!r} {'converted to sRGB' if convert else 'kept'}: {levels:.1f} levels from sRGB"
    return _Colors(_CONVERTED if convert else _KEPT, (note,))


def _thumbnail(data: bytes) -> Image:
    """Return a JPEG decoded at a reduced size."""
    image = open_picture(data).image
    image.draft(None, (64, 64))
    _load(image)
    return image


def _pixels(picture: Picture, color: Color) -> tuple[Image, _Colors]:
    """Return the decoded image and what was done to its colours.

    The image is upright, on white, and in mode L or RGB.
    """
    image = decode_picture(picture)
    done = _NO_PROFILE
    if profile := read_profile(picture.profile, image.mode):
        opaque = image.convert("RGB") if image.mode == "RGBA" else image
        done = _judge(profile, lambda: opaque, color)
        if done.how == _CONVERTED or image.mode == "LAB":
            image = profile.convert(image)
    return onto_white(image), done


def _header(data: bytes) -> JpegHeader | None:
    """Return the header of a JPEG, or None if `data` is not a JPEG. Raises BrokenPhoto if it is empty, or a JPEG with
    an invalid header or too many scans or pixels."""
    if not data:
        raise BrokenPhoto("empty file")
    if sniff(data[:HEAD]) != "JPEG":
        return None
    try:
        header = read_header(data)
        require_few_scans(data)
    except ValueError as error:
        raise BrokenPhoto(str(error)) from error
    check_pixels(header.width, header.height)
    if header.precision != 8:
        raise BrokenPhoto(f"{header.precision}-bit JPEG, which is not supported: save it with 8 bits")
    return header


def _why_not_kept(header: JpegHeader, max_size: int | None) -> str | None:
    """Return why a JPEG's coefficients can't be kept, or None if they can."""
    if header.frame > 2:
        return f"JPEG of kind SOF{header.frame}"
    if header.components not in (1, 3):
        return "CMYK JPEG" if header.components == 4 else f"JPEG of {header.components} components"
    if any(not factor or max(axis) % factor for axis in zip(*header.sampling, strict=True) for factor in axis):
        return "JPEG of fractional sampling"  # libjpeg reads its coefficients, but not its pixels
    if max_size is not None and max(header.width, header.height) > max_size:
        return "size"
    return None


def _kept(data: bytes, header: JpegHeader, cut: Interval, optimize: bool, color: Color) -> StoredPhoto | str:
    """Return the photograph with its coefficients kept, or the reason why it must be encoded again."""
    try:
        stripped = strip_metadata(data)
    except ValueError as error:
        raise _Damaged(f"truncated: {error}") from error
    colors = _NO_PROFILE
    if header.profile and (profile := read_profile(header.profile, _COMPONENTS[header.components])):
        colors = _judge(profile, lambda: _thumbnail(data), color)
    if colors.how == _CONVERTED:
        return "color profile"
    first = "as-is" if stripped == data else "stripped"
    turned = header.orientation != 1
    if not native_available():
        if cut == "none" and not turned:
            _require_decodable(stripped)
            return StoredPhoto(header.width, header.height, (first, *colors.how), colors.notes, stripped)
        return "orientation"
    try:
        jpeg = cut_jpeg(stripped, cut, optimize and (cut != "none" or turned), header.orientation)
    except ValueError as error:
        if str(error).startswith("orientation:"):
            return "orientation"
        raise _Damaged(_damage(error)) from error
    width, height = (header.height, header.width) if header.orientation > 4 else (header.width, header.height)
    how = ("rotated" if turned else first, *colors.how)
    if cut == "none":
        return StoredPhoto(width, height, how, colors.notes, jpeg if turned else stripped)
    return StoredPhoto(width, height, (*how, "cut"), colors.notes, jpeg)


def _require_decodable(data: bytes) -> None:
    # At an eighth of the size, every Huffman code is still read, but there is almost no IDCT to compute.
    """Raise BrokenPhoto if a JPEG can't be decoded."""
    image = open_as("JPEG", data)
    image.draft("L", (1, 1))
    _load(image)


def _load(image: Image) -> None:
    """Decode an image. Raises BrokenPhoto if that fails."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise BrokenPhoto(reason_of("JPEG", error)) from error


def _shrink(image: Image, max_size: int | None) -> bool:
    """Shrink `image` in place if needed, and return whether it was."""
    from PIL.Image import Resampling

    if max_size is None or max(image.size) <= max_size:
        return False
    image.thumbnail((max_size, max_size), Resampling.LANCZOS, reducing_gap=3.0)
    return True


def _encode(
    image: Image, why: str, max_size: int | None, quality: int, cut: Interval, optimize: bool, color: _Colors
) -> StoredPhoto:
    """Return an image as a JPEG. `why` is the reason for encoding it."""
    how = [*color.how, *(["resized"] if _shrink(image, max_size) else [])]
    if max(image.size) > _MAX_SIDE:
        raise BrokenPhoto(f"{image.width}x{image.height} is longer than a JPEG's {_MAX_SIDE:,} px; use --max-size")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0", optimize=optimize)
    jpeg = file.getvalue()
    if cut != "none":
        jpeg = cut_jpeg(jpeg, cut, optimize)
        how.append("cut")
    return StoredPhoto(image.width, image.height, (f"re-encoded: {why}", *how), color.notes, jpeg)
