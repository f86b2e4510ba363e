from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from fasttrain.photos.jpeg import read_header, strip_metadata


def segment(marker: int, payload: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(payload) + 2) + payload


def exif_of(orientation: int, *, camera: bytes = b"CAMERA-XYZ\0", order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHII", 0x010F, 2, len(camera), 38)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, 2) + entries + bytes(4) + camera


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


@pytest.mark.parametrize(
    ("options", "sampling", "progressive"),
    [
        ({"subsampling": "4:2:0"}, ((2, 2), (1, 1), (1, 1)), False),
        ({"subsampling": "4:2:2", "progressive": True}, ((2, 1), (1, 1), (1, 1)), True),
        ({"subsampling": "4:4:4"}, ((1, 1), (1, 1), (1, 1)), False),
    ],
)
def test_header_of_what_pillow_writes(picture, encode, options, sampling, progressive) -> None:
    header = read_header(encode(picture, **options))
    assert (header.width, header.height, header.components) == (64, 48, 3)
    assert (header.sampling, header.progressive, header.orientation) == (sampling, progressive, 1)


def test_header_of_grey_and_cmyk(picture, encode) -> None:
    assert read_header(encode(picture.convert("L"))).components == 1
    cmyk = read_header(encode(picture.convert("CMYK")))
    assert (cmyk.components, cmyk.adobe_transform) == (4, 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_reads_it(picture, encode, order, orientation, tmp_path) -> None:
    jpeg = with_segments(encode(picture), segment(0xE1, exif_of(orientation, order=order)))
    (tmp_path / "a.jpg").write_bytes(jpeg)
    assert read_header(jpeg).orientation == orientation == Image.open(tmp_path / "a.jpg").getexif()[0x0112]


def test_damaged_exif_says_nothing(picture, encode) -> None:
    jpeg = with_segments(encode(picture), segment(0xE1, exif_of(6)[:20]))
    assert read_header(jpeg).orientation == 1


def test_strip_takes_what_is_private_and_keeps_what_says_colour(picture, encode) -> None:
    plain = encode(picture, progressive=True)
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01")
    profile = segment(0xE2, b"ICC_PROFILE\0\x01\x01profile")
    private = [
        segment(0xE1, exif_of(1)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>GPS 52.5</x>"),
        segment(0xED, b"Photoshop 3.0\0 GPS IPTC"),
        segment(0xE2, b"MPF\0II*\0"),
    ]
    appended = with_segments(plain, segment(0xE1, b"Exif\0\0 GPS of the second picture"))
    stripped = strip_metadata(with_segments(plain, *private, profile, adobe) + appended)
    assert stripped == with_segments(plain, profile, adobe)
    assert strip_metadata(plain) == plain


def test_strip_skips_fill_and_stray_bytes(picture, encode) -> None:
    plain = encode(picture)
    start = plain.index(b"\xff\xdb")
    assert strip_metadata(plain[:start] + b"\x00\x07\xff\xff" + plain[start:]) == plain


def test_no_end_marker_and_no_frame_are_errors(picture, encode) -> None:
    with pytest.raises(ValueError, match="end marker"):
        strip_metadata(encode(picture)[:-2])
    with pytest.raises(ValueError, match="frame"):
        read_header(b"\xff\xd8\xff\xd9")
    with pytest.raises(ValueError, match="not a JPEG"):
        read_header(b"GIF89a")


def test_any_bytes_are_read_or_refused(picture, encode) -> None:
    rng, jpeg = np.random.default_rng(0), encode(picture)
    for _ in range(300):
        damaged = bytearray(jpeg[: int(rng.integers(3, len(jpeg)))])
        damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        for read in (read_header, strip_metadata):
            try:
                read(bytes(damaged))
            except ValueError as error:
                assert "\n" not in str(error)
