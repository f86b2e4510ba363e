"""Read and strip a JPEG's metadata (ITU T.81, Exif 2.3) without decoding a pixel."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fasttrain.photos.cut import jpeg_info, native_available
from fasttrain.photos.exif import exif_orientation

_SOI, _EOI, _SOS, _DHT, _JPG, _DAC = 0xD8, 0xD9, 0xDA, 0xC4, 0xC8, 0xCC
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
_ICC = b"ICC_PROFILE\0"
_ENTROPY_CODED = 0x00  # not a marker's number
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_ANY_MARKER = re.compile(rb"\xff[^\x00\xff]")
_WITHIN_SCAN = frozenset({0x00, *range(0xD0, 0xD8), 0xFF})
_MOST_SCANS = 100  # real files have about ten; each further one is a pass over all coefficients
_MOST_SEGMENTS = 10_000  # a profile and Exif have about a hundred


@dataclass(frozen=True)
class JpegHeader:
    """The frame header. Sizes are in pixels as stored, before `orientation` (the first Exif segment's, 1 without one).

    `sampling` holds (horizontal, vertical) factors for each component; `frame` is n of SOFn (0 baseline, 2
    progressive, 9 arithmetic ...); `adobe_transform` is APP14's, None without one; `profile` is the ICC profile.
    """

    width: int
    height: int
    precision: int
    sampling: tuple[tuple[int, int], ...]
    frame: int
    orientation: int
    adobe_transform: int | None
    profile: bytes = b""

    @property
    def components(self) -> int:
        return len(self.sampling)

    @property
    def progressive(self) -> bool:
        return self.frame == 2


@dataclass(frozen=True)
class _Segment:
    marker: int
    start: int  # of the FF byte
    end: int  # after the payload
    payload: bytes


def is_jpeg(data: bytes) -> bool:
    """Return whether `data` begins like a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def read_header(data: bytes) -> JpegHeader:
    """Read the markers up to the first scan. Raises ValueError if they are invalid."""
    orientation, adobe, frame, profile = None, None, None, []
    for segment in _segments(data):
        if segment.marker == _APP1 and orientation is None and segment.payload[:5] == b"Exif\0":
            orientation = exif_orientation(segment.payload[6:])
        elif segment.marker == _APP2 and segment.payload[:12] == _ICC:
            profile.append(segment.payload[12:])  # its number, the number of parts, its share of the bytes
        elif segment.marker == _APP14 and segment.payload[:5] == b"Adobe" and len(segment.payload) >= 12:
            adobe = segment.payload[11]
        elif 0xC0 <= segment.marker <= 0xCF and segment.marker not in (_DHT, _JPG, _DAC):
            frame = segment
        elif segment.marker == _SOS:
            break
    if frame is None:
        raise ValueError("a JPEG without a frame header")
    if len(frame.payload) < 6:
        raise ValueError("a JPEG with a short frame header")
    precision, height, width, count = struct.unpack(">BHHB", frame.payload[:6])
    if len(frame.payload) < 6 + 3 * count or not width or not height or not count:
        raise ValueError("a JPEG with an invalid frame header")
    factors = [frame.payload[7 + 3 * i] for i in range(count)]
    sampling = tuple((factor >> 4, factor & 15) for factor in factors)
    icc = b"".join(part[2:] for part in sorted(profile, key=lambda part: part[:1]))
    return JpegHeader(width, height, precision, sampling, frame.marker - 0xC0, orientation or 1, adobe, icc)


def require_jpeg(data: bytes | memoryview, width: int, height: int) -> None:
    """Raise ValueError if `data` is not a JPEG of that size, or has too many scans."""
    if native_available():  # takes a hundredth of the time
        info = jpeg_info(data)
        found, progressive = (info["width"], info["height"]), info["progressive"]
    else:
        header = read_header(bytes(data))
        found, progressive = (header.width, header.height), header.progressive
    if found != (width, height):
        raise ValueError(f"the index says {width}x{height} px, but the JPEG {found[0]}x{found[1]}")
    if progressive:
        require_few_scans(bytes(data))


def require_few_scans(data: bytes) -> None:
    """Raise ValueError for a JPEG with more than 100 scans, which would keep decoders busy for minutes."""
    if data.count(b"\xff\xda") <= _MOST_SCANS:
        return
    if sum(segment.marker == _SOS for segment in _segments(data)) > _MOST_SCANS:
        raise ValueError(f"a JPEG of more than {_MOST_SCANS} scans")


def strip_metadata(data: bytes) -> bytes:
    """Return `data` without what follows EOI, and without APPn segments other than APP0, APP2 (ICC profile) and APP14.

    This removes Exif, GPS, XMP and IPTC, and the second pictures that phones append (APP2 "MPF"), which have their own
    Exif. Tables and entropy-coded bytes are unchanged, and so are the pixels. Raises ValueError if the markers are
    invalid or there is no EOI.
    """
    kept = [data[:2]]
    for segment in _segments(data):
        if not _is_private(segment):
            kept.append(data[segment.start : segment.end])
        if segment.marker == _EOI:
            return b"".join(kept)
    raise ValueError("a JPEG that ends before its end marker")


def without_metadata(data: bytes) -> bytes:
    """Return `data` without the private segments before its first scan. Everything else stays, including damage."""
    kept = [data[:2]]
    try:
        for segment in _segments(data):
            if segment.marker == _SOS:
                return b"".join([*kept, data[segment.start :]])
            if not _is_private(segment):
                kept.append(data[segment.start : segment.end])
    except ValueError:
        pass
    return data


def with_metadata_of(data: bytes, jpeg: bytes) -> bytes:
    """Return `jpeg` with the Exif and the ICC profile of the JPEG `data`."""
    metadata = []
    for segment in _segments(data):
        if segment.marker == _SOS:
            break
        if segment.payload[:5] == b"Exif\0" or segment.payload[:12] == _ICC:
            metadata.append(data[segment.start : segment.end])
    return b"".join([jpeg[:2], *metadata, jpeg[2:]])


def _is_private(segment: _Segment) -> bool:
    if segment.marker == _APP2:
        return segment.payload[:4] == b"MPF\0"
    return _APP0 < segment.marker <= _APP15 and segment.marker != _APP14


def _segments(data: bytes) -> Iterator[_Segment]:
    if not is_jpeg(data):
        raise ValueError("not a JPEG")
    position, count = 2, 0
    # Like libjpeg, this skips fill bytes and stray bytes before a marker.
    while found := _ANY_MARKER.search(data, position):
        start, position = found.start(), found.end() - 1
        marker = data[position]
        position += 1
        if marker == _EOI:
            yield _Segment(marker, start, position, b"")
            return
        if marker in _STANDALONE:
            continue
        if position + 2 > len(data):
            return
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise ValueError(f"a JPEG with an invalid segment at {start}")
        if (count := count + 1) > _MOST_SEGMENTS:
            raise ValueError(f"a JPEG of more than {_MOST_SEGMENTS:,} segments")
        payload = data[position + 2 : position + length]
        position += length
        yield _Segment(marker, start, min(position, len(data)), payload)
        if marker == _SOS:
            start, position = position, _scan_end(data, position)
            yield _Segment(_ENTROPY_CODED, start, position, b"")


def _scan_end(data: bytes, position: int) -> int:
    # bytes.find is four times as fast as a regular expression here.
    last = len(data) - 1
    while 0 <= (position := data.find(b"\xff", position)) < last:
        if data[position + 1] not in _WITHIN_SCAN:
            return position
        position += 1
    return len(data)
