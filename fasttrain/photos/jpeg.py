"""Read and remove the metadata of a JPEG (ITU T.81, Exif 2.3) without decoding its pixels."""

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
_ENTROPY_CODED = 0x00  # the bytes of a scan, as no marker has this number
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_ANY_MARKER = re.compile(rb"\xff[^\x00\xff]")
_WITHIN_SCAN = frozenset({0x00, *range(0xD0, 0xD8), 0xFF})
_MOST_SCANS = 100  # real files have about ten, and each scan is a pass over all coefficients
_MOST_SEGMENTS = 10_000  # files with a profile and Exif have about a hundred


@dataclass(frozen=True)
class JpegHeader:
    """The header of a JPEG.

    - `width`, `height`: the stored size in pixels, before the orientation is applied.
    - `precision`: the number of bits per sample.
    - `sampling`: (horizontal, vertical) sampling factors of each component.
    - `frame`: the kind of frame, n of SOFn: 0 baseline, 2 progressive, 9 arithmetic, ...
    - `orientation`: 1 to 8, from the first Exif segment, or 1 without one.
    - `adobe_transform`: the colour transform in APP14, or None without one.
    - `profile`: the ICC profile, or empty.
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
        """Return the number of components."""
        return len(self.sampling)

    @property
    def progressive(self) -> bool:
        """Return whether the JPEG is progressive."""
        return self.frame == 2


@dataclass(frozen=True)
class _Segment:
    """A marker segment, or the entropy-coded bytes of a scan."""

    marker: int
    start: int  # the position of the FF byte
    end: int  # the position after the payload
    payload: bytes


def is_jpeg(data: bytes) -> bool:
    """Return whether `data` begins like a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def read_header(data: bytes) -> JpegHeader:
    """Return the header of the JPEG `data`. Raises ValueError if it is invalid."""
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
    """Raise ValueError if `data` is not a JPEG of `width` x `height` pixels, or has more than 100 scans."""
    if native_available():  # takes a hundredth of the time
        info = jpeg_info(data)
        found, progressive = (info["width"], info["height"]), info["progressive"]
    else:
        header = read_header(bytes(data))
        found, progressive = (header.width, header.height), header.progressive
    if found != (width, height):
        raise ValueError(f"the index says {width}x{height} px, but the JPEG has {found[0]}x{found[1]} px")
    if progressive:
        require_few_scans(bytes(data))


def require_few_scans(data: bytes) -> None:
    """Raise ValueError for a JPEG with more than 100 scans, which would take minutes to decode."""
    if data.count(b"\xff\xda") <= _MOST_SCANS:
        return
    if sum(segment.marker == _SOS for segment in _segments(data)) > _MOST_SCANS:
        raise ValueError(f"a JPEG of more than {_MOST_SCANS} scans")


def strip_metadata(data: bytes) -> bytes:
    """Return the JPEG `data` without private metadata, and without any bytes after its end marker.

    Of the APPn segments only APP0, APP2 (the ICC profile) and APP14 are kept. This removes Exif, GPS, XMP and IPTC, and
    the second pictures that phones append (APP2 "MPF"), which have their own Exif. Tables and entropy-coded bytes, and
    so the pixels, are unchanged. Raises ValueError if the markers are invalid or there is no end marker.
    """
    kept = [data[:2]]
    for segment in _segments(data):
        if not _is_private(segment):
            kept.append(data[segment.start : segment.end])
        if segment.marker == _EOI:
            return b"".join(kept)
    raise ValueError("a JPEG that ends before its end marker")


def without_metadata(data: bytes) -> bytes:
    """Return the JPEG `data` without the private segments before its first scan. Everything else is unchanged, even
    damage."""
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
    """Return whether a segment holds private metadata."""
    if segment.marker == _APP2:
        return segment.payload[:4] == b"MPF\0"
    return _APP0 < segment.marker <= _APP15 and segment.marker != _APP14


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments of a JPEG, and the entropy-coded bytes of each scan. Raises ValueError if a segment is
    invalid."""
    if not is_jpeg(data):
        raise ValueError("not a JPEG")
    position, count = 2, 0
    # Like libjpeg, this skips fill bytes and other bytes before a marker.
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
    """Return the position of the marker that ends a scan."""
    last = len(data) - 1
    while 0 <= (position := data.find(b"\xff", position)) < last:
        if data[position + 1] not in _WITHIN_SCAN:
            return position
        position += 1
    return len(data)
