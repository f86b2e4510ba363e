"""ICC profiles: how far a profile moves colours from their meaning in sRGB, and the conversion to sRGB."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

Color = Literal["auto", "keep", "srgb"]

MOST_LEVELS = 4.0
"""With "auto", colours that move by more than this many of 256 levels on average are converted."""

_SAME_LEVELS = 2.0  # a profile that moves no colour by more is sRGB under another name
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
_THUMBNAIL = 64


@dataclass(frozen=True)
class Profile:
    """A profile other than sRGB. `name`: its own name. `mode`: the mode of Pillow that it describes."""

    name: str
    mode: str
    transform: ImageCmsTransform

    def levels(self, image: Image) -> float:
        """Return by how many of 256 levels the profile moves the colours of `image`, which has mode RGB, L, CMYK or
        LAB."""
        from PIL.Image import Resampling

        width, height = image.size
        size = (min(width, _THUMBNAIL), min(height, _THUMBNAIL))
        return _apart(self.transform, image.resize(size, Resampling.BOX) if size != image.size else image)

    def convert(self, image: Image) -> Image:
        """Return `image`, which has mode RGB, RGBA, L, CMYK or LAB, in sRGB."""
        if image.mode == "RGBA":
            converted = self.convert(image.convert("RGB"))
            converted.putalpha(image.getchannel("A"))
            return converted
        converted = self.transform.apply(image)
        return converted.convert("L") if image.mode == "L" else converted


def read_profile(icc: bytes, mode: str) -> Profile | None:
    """Return the profile, or None if it is sRGB, unreadable, or not for pixels of `mode`."""
    found = _read(icc) if icc else None
    return found if found and found.mode == ("RGB" if mode == "RGBA" else mode) else None


@functools.lru_cache(maxsize=64)  # a data set has only a few, each in thousands of files
def _read(icc: bytes) -> Profile | None:
    from PIL import Image, ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = _SPACES[profile.profile.xcolor_space]
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        name = profile.profile.profile_description or "without a name"
    except (OSError, KeyError, ImageCms.PyCMSError):
        return None
    if mode in ("RGB", "L"):
        steps = np.linspace(0, 255, 16).astype(np.uint8)
        colors = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
        if _apart(transform, Image.fromarray(colors if mode == "RGB" else colors[..., 0]), most=True) < _SAME_LEVELS:
            return None
    return Profile("".join(letter for letter in name if letter.isprintable())[:60], mode, transform)


def _apart(transform: ImageCmsTransform, image: Image, *, most: bool = False) -> float:
    if image.mode == "LAB":
        return 256.0  # Pillow has no other conversion to RGB
    moved = np.asarray(transform.apply(image), dtype=np.int16)
    apart = np.abs(moved - np.asarray(image.convert("RGB"), dtype=np.int16)).mean(axis=-1)
    return float(apart.max() if most else apart.mean())
