"""Read ICC profiles: measure how much colours differ from sRGB, and convert them to sRGB."""

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
"""With "auto", colours are converted if they change by more than this many of 256 levels on average."""

_SAME_LEVELS = 2.0  # a profile that changes no colour by more is treated as sRGB
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
_THUMBNAIL = 64


@dataclass(frozen=True)
class Profile:
    """An ICC profile other than sRGB. `name` is the name in the profile, and `mode` is Pillow's mode for its
    colours."""

    name: str
    mode: str
    transform: ImageCmsTransform

    def levels(self, image: Image) -> float:
        """Return by how many of 256 levels the conversion to sRGB changes the colours of `image`, on average.

        The mode of `image` is RGB, L, CMYK or LAB.
        """
        from PIL.Image import Resampling

        width, height = image.size
        size = (min(width, _THUMBNAIL), min(height, _THUMBNAIL))
        return _apart(self.transform, image.resize(size, Resampling.BOX) if size != image.size else image)

    def convert(self, image: Image) -> Image:
        """Return `image`, which has mode RGB, RGBA, L, CMYK or LAB, converted to sRGB."""
        if image.mode == "RGBA":
            converted = self.convert(image.convert("RGB"))
            converted.putalpha(image.getchannel("A"))
            return converted
        converted = self.transform.apply(image)
        return converted.convert("L") if image.mode == "L" else converted


def read_profile(icc: bytes, mode: str) -> Profile | None:
    """Return the profile in `icc`, or None if it is sRGB, unreadable, or not for pixels of `mode`."""
    found = _read(icc) if icc else None
    return found if found and found.mode == ("RGB" if mode == "RGBA" else mode) else None


@functools.lru_cache(maxsize=64)  # a data set has only a few profiles, each in thousands of files
def _read(icc: bytes) -> Profile | None:
    """Return the profile in `icc`, or None if it is sRGB or unreadable."""
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
    """Return by how many of 256 levels `transform` changes the colours of `image`: on average, or with `most`, the
    largest change."""
    if image.mode == "LAB":
        return 256.0  # Pillow has no other conversion to RGB
    moved = np.asarray(transform.apply(image), dtype=np.int16)
    apart = np.abs(moved - np.asarray(image.convert("RGB"), dtype=np.int16)).mean(axis=-1)
    return float(apart.max() if most else apart.mean())
