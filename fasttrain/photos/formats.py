"""Recognize the format of a file by its first bytes, and explain why a format can't be read."""

from __future__ import annotations

import importlib.util
import re
import struct

from fasttrain.extras import install

HEAD = 512
"""The number of bytes at the beginning of a file that `sniff` needs."""

PILLOW = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WebP": "WEBP",
    "GIF": "GIF",
    "BMP": "BMP",
    "DIB": "DIB",
    "TIFF": "TIFF",
    "PNM": "PPM",
    "AVIF": "AVIF",
    "JPEG 2000": "JPEG2000",
    "HEIC": "HEIF",
    "JPEG XL": "JXL",
}
"""The supported formats, and Pillow's name for each."""

_EXTRAS = {"HEIC": ("pillow_heif", "heif"), "JPEG XL": ("pillow_jxl", "jxl")}
_SAVE_AS = "save it as JPEG or PNG"
RAW = f"a camera's raw file, which is not supported: {_SAVE_AS}"
_WHY = {
    "": "not a photograph: no known picture format",
    "zeros": "not a photograph: it holds only zero bytes; copy it again",
    "web page": "a web page, not a photograph: the download failed",
    "Git LFS": "a Git LFS pointer, not the photograph: run `git lfs pull`",
    "raw": RAW,
    **{kind: f"a video ({kind}), not a photograph" for kind in ("MP4", "QuickTime", "AVI", "Matroska", "FLV", "MPEG")},
    "icon": "an icon, not a photograph",
    "archive": "an archive, not a photograph: unpack it",
    "PDF": "a PDF document, not a photograph",
    **{
        kind: f"{kind} is not supported: {_SAVE_AS}"
        for kind in ("JPEG-LS", "SVG", "PSD", "PAM", "OpenEXR", "Radiance HDR", "BigTIFF", "JPEG XR", "BPG", "FLIF")
    },
}
_START = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"version https://git-lfs", "Git LFS"),
    (b"8BPS", "PSD"),
    (b"P7\n", "PAM"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?R", "Radiance HDR"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"%PDF", "PDF"),
    (b"\0\0\1\0", "icon"),
    (b"\x1a\x45\xdf\xa3", "Matroska"),
    (b"FLV\1", "FLV"),
    (b"\0\0\1\xba", "MPEG"),
    (b"PK\3\4", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"7z\xbc\xaf", "archive"),
    (b"Rar!", "archive"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"IIRO", "raw"),
    (b"IIRS", "raw"),
    (b"MMOR", "raw"),
    (b"IIU\0", "raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "raw"),
    (b"FOVb", "raw"),
    (b"\0MRM", "raw"),
)
_BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "raw": {b"crx "},
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"},
}
_PNM = re.compile(rb"P(?:[1-6]|[Ff])\s")
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?:!--.*?-->\s*<)?(!doctype\s+html|html|head|body|[?]xml|svg|error)",
    re.IGNORECASE | re.DOTALL,
)
_DIB_SIZES = (12, 40, 52, 56, 64, 108, 124)


def sniff(head: bytes) -> str:
    """Return the format of a file that begins with `head`, or "" if the format isn't known.

    The format is a key of `PILLOW`, or a name of an unsupported format that `why_not` explains.
    """
    for start, kind in _START:
        if head.startswith(start):
            return kind
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "raw" if head[8:10] == b"CR" else "TIFF"
    if head[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "AVI"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "QuickTime"
    if _PNM.match(head):
        return "PNM"
    if found := _MARKUP.match(head):
        return "SVG" if found[1].lower() == b"svg" or b"<svg" in head else "web page"
    if head and not head.strip(b"\0"):
        return "zeros"
    if head[:2] == b"BM" and _is_dib(head[14:]):
        return "BMP"
    return "DIB" if _is_dib(head) else ""


def why_not(kind: str) -> str | None:
    """Return why a file of the format `kind` (see `sniff`) can't be read, or None if it can."""
    if kind in _WHY:
        return _WHY[kind]
    if kind in _EXTRAS:
        module, extra = _EXTRAS[kind]
        if importlib.util.find_spec(module) is None:
            return f"{kind} needs {module.replace('_', '-')}: {install(extra)}"
    return None


def _of_brands(head: bytes) -> str:
    """Return the format of a file by the brands in its `ftyp` box."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    video = "QuickTime" if head[8:12] == b"qt  " else "MP4"
    return next((kind for kind, known in _BRANDS.items() if brands & known), video)


def _is_dib(head: bytes) -> bool:
    """Return whether `head` begins with the header of a bitmap."""
    if len(head) < 16 or int.from_bytes(head[:4], "little") not in _DIB_SIZES:
        return False
    planes, bits = struct.unpack_from("<HH", head, 8 if head[0] == 12 else 12)
    return planes == 1 and bits in (1, 2, 4, 8, 16, 24, 32)
