"""Metadata never makes a sound picture fail, and which way is up is decided alike for every path."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fasttrain.photos.jpeg import read_header
from fasttrain.photos.normalize import decode, normalize

FOREIGN = b"hello world, no TIFF"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description tiff:Orientation=\"6\"/></x:xmpmeta>"


def exif(value: int, kind: int = 3, count: int = 1, *, after: int | None = None) -> bytes:
    """A TIFF block whose first directory gives an orientation; `after` in a second entry of the same tag."""
    entries = [value] if after is None else [value, after]
    body = b"".join(struct.pack("<HHIHH", 0x112, kind, count, each, 0) for each in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def in_png(png: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    at = len(png) - 12 if behind else 33
    return png[:at] + b"".join(chunks) + png[at:]


def in_jpeg(jpeg: bytes, *payloads: bytes) -> bytes:
    segments = (b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload for payload in payloads)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def in_webp(picture: Image.Image, block: bytes) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", exif=exif(1))
    webp = file.getvalue()
    webp = webp[: webp.index(b"EXIF")] + b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)
    return webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]


def shapes(data: bytes) -> set[tuple[int, int]]:
    """(width, height) by each way into the shards."""
    photos = [normalize(data), normalize(data, max_size=4000), normalize(data, cut="mcu"), decode(data, max_size=4000)]
    return {(photo.width, photo.height) for photo in photos}


LARGE = zlib.compress(bytes(2 << 20))


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"x\0\0" + LARGE),
        chunk(b"zTXt", b"x\0\0" + LARGE),
        chunk(b"iTXt", b"x\0\1\0\0\0" + LARGE),
        chunk(b"eXIf", FOREIGN),
        chunk(b"tEXt", b"Raw profile type exif\0\n\nexif\n 9\nzz"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"tEXt", b"a\0b")[:-4] + bytes(4),
        chunk(b"acTL", b"\0"),
    ],
    ids=["profile", "zTXt", "iTXt", "exif", "rawprofile", "xmp", "gamma", "chroma", "checksum", "animation"],
)
def test_what_a_png_holds_beside_its_pixels_is_passed_over(picture, encode, extra, behind) -> None:
    stored = normalize(in_png(encode(picture, "PNG"), extra, behind=behind))
    assert stored.jpeg == normalize(encode(picture, "PNG")).jpeg


@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "TIFF", "AVIF"])
def test_foreign_exif_and_xmp_are_passed_over(picture, encode, kind) -> None:
    if kind not in Image.OPEN and (Image.init(), kind not in Image.SAVE)[1]:
        pytest.skip(f"this Pillow has no {kind}")
    data = {
        "WEBP": lambda: in_webp(picture, FOREIGN),
        "JPEG": lambda: in_jpeg(encode(picture), b"Exif\0\0" + FOREIGN, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        "TIFF": lambda: encode(picture, "TIFF", tiffinfo={700: XMP, 34665: 99_999_999}),
        "AVIF": lambda: encode(picture, "AVIF", exif=exif(1)).replace(b"II*\0", b"hey!"),
    }[kind]()
    assert shapes(data) == {(64, 48)}


# The expected orientation is Chromium 156's. A picture is 64 x 48, and 48 x 64 if it is turned.
RULE = {
    "one": ((exif(6),), True),
    "the first counts": ((exif(6), exif(1)), True),
    "the second doesn't": ((exif(1), exif(6)), False),
    "not after a foreign one": ((FOREIGN, exif(6)), False),
    "not after an empty one": ((exif(6).replace(b"\x12\x01", b"\x13\x01"), exif(6)), False),
    "no LONG": ((exif(6, 4),), False),
    "no BYTE": ((exif(6, 1),), False),
    "no two": ((exif(6, 3, 2),), False),
    "no 9": ((exif(9),), False),
    "no 0": ((exif(0),), False),
    "the first entry": ((exif(6, after=1),), True),
    "not the second entry": ((exif(1, after=6),), False),
}


@pytest.mark.parametrize("what", RULE)
def test_which_jpegs_are_turned(picture, encode, what) -> None:
    blocks, turned = RULE[what]
    data = in_jpeg(encode(picture), *(b"Exif\0\0" + block for block in blocks))
    assert shapes(data) == {(48, 64) if turned else (64, 48)}


def test_the_byte_after_exif_may_be_any(picture, encode) -> None:
    assert shapes(in_jpeg(encode(picture), b"Exif\0\x01" + exif(6))) == {(48, 64)}


def test_which_pngs_and_webps_are_turned(picture, encode) -> None:
    png = encode(picture, "PNG")
    turned = chunk(b"eXIf", exif(6))
    assert shapes(in_png(png, turned)) == shapes(in_png(png, turned, chunk(b"eXIf", exif(1)))) == {(48, 64)}
    assert shapes(in_png(png, turned, behind=True)) == {(64, 48)}
    assert shapes(in_webp(picture, exif(6))) == shapes(in_webp(picture, b"Exif\0\0" + exif(6))) == {(48, 64)}
    assert shapes(in_webp(picture, exif(6, 4))) == {(64, 48)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_shows_the_same(picture, encode, kind, orientation) -> None:
    stored_as = Image.Transpose
    back = [None, 0, 3, 1, 5, 2, 6, 4]  # the turn that the orientation undoes
    turned = picture if orientation == 1 else picture.transpose(stored_as(back[orientation - 1]))
    block = Image.Exif()
    block[0x112] = orientation
    data = {
        "PNG": lambda: in_png(encode(turned, "PNG"), chunk(b"eXIf", exif(orientation))),
        "WEBP": lambda: in_webp(turned, exif(orientation)),
        "TIFF": lambda: encode(turned, "TIFF", exif=block),
    }[kind]()
    pixels = np.frombuffer(decode(data, max_size=100).pixels, np.uint8).reshape(48, 64, 3).astype(int)
    assert np.abs(pixels - np.asarray(picture)).mean() < 6


def test_an_avif_is_turned_once(picture, encode) -> None:
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    block = Image.Exif()
    block[0x112] = 6
    data = encode(picture, "AVIF", exif=block)
    assert shapes(data) == {(48, 64)}
    assert shapes(data.replace(exif(6)[8:22], exif(3)[8:22])) == {(48, 64)}  # the container's turn counts, not Exif's


def test_a_header_has_the_profile_in_order(encode, picture) -> None:
    profile = bytes(range(256)) * 600  # three segments
    jpeg = encode(picture, icc_profile=profile)
    assert read_header(jpeg).profile == profile
