"""The settings of `convert` that decide the shards' bytes, and the check of their ranges."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from fasttrain.errors import UserError
from fasttrain.photos.color import Color
from fasttrain.photos.cut import Interval, native_available
from fasttrain.photos.normalize import ACCEPT_DAMAGED
from fasttrain.version import __version__

ADDED = {"raw": False, "color": "keep", "test_fraction": 0.0, "accept_damaged": ACCEPT_DAMAGED}
"""The values that settings had before they existed, for manifests of older versions."""
_LEFT_OUT = ("test_fraction",)
"""Settings that a manifest omits if they have the value in `ADDED`, so that it equals one of an older version."""


@dataclass(frozen=True)
class ShardSettings:
    """The settings of a conversion that decide the shards' bytes. Their meanings and ranges are those in `convert`.

    `cut` may be "auto" until `resolved` replaces it.
    """

    val_fraction: float = 0.2
    seed: int = 0
    max_size: int | None = None
    quality: int = 95
    cut: str = "auto"
    optimize: bool = True
    shard_size: int = 1000
    raw: bool = False
    color: str = "auto"
    test_fraction: float = 0.0
    accept_damaged: float = ACCEPT_DAMAGED

    def resolved(self) -> ShardSettings:
        """Check the ranges, and replace "auto" by a value that suits this machine. Raises UserError for an invalid
        value."""
        ranges = {
            "val_fraction": (0 <= self.val_fraction < 1, "at least 0 and below 1, such as 0.2"),
            "test_fraction": (0 <= self.test_fraction < 1, "at least 0 and below 1, such as 0.1"),
            "seed": (0 <= self.seed < 1 << 63, "at least 0 and below 2**63"),
            "max_size": (self.max_size is None or self.max_size >= 8, "at least 8 px"),
            "quality": (1 <= self.quality <= 100, "1 to 100, such as 95"),
            "cut": (self.cut in ("auto", *get_args(Interval)), "auto, mcu, row or none"),
            "color": (self.color in get_args(Color), "auto, keep or srgb"),
            "accept_damaged": (0 <= self.accept_damaged <= 1, "0 to 1, such as 0.98"),
            "shard_size": (self.shard_size >= 1, "at least 1 photograph, such as 1000"),
        }
        for name, (valid, fix) in ranges.items():
            if not valid:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give {fix}")
        if self.val_fraction + self.test_fraction >= 1:
            both = f"--val-fraction {self.val_fraction} and --test-fraction {self.test_fraction}"
            raise UserError(f"{both} leave no photograph to train on; their sum must be below 1")
        if self.raw:
            return self._resolved_raw()
        if self.cut == "auto":
            return replace(self, cut="mcu" if native_available() else "none")
        if self.cut != "none" and not native_available():
            raise UserError(f"--cut {self.cut} needs the C++ module, which isn't installed; give --cut none")
        return self

    def _resolved_raw(self) -> ShardSettings:
        """Check the settings for decoded pixels. Settings of JPEGs get fixed values, so that equal shards have equal
        settings."""
        if self.max_size is None:
            raise UserError(
                "--raw without --max-size would store megabytes per photograph: add --max-size, such as 256"
            )
        if self.cut in ("mcu", "row"):
            raise UserError(f"--raw stores no JPEGs, so --cut {self.cut} has no effect: leave out one of them")
        return replace(self, cut="none", quality=ShardSettings.quality, optimize=ShardSettings.optimize)

    def recorded(self) -> dict[str, Any]:
        """Return the settings for the manifest, with fasttrain's version.

        `test_fraction` is left out if it is 0, so that the manifest equals one of an older version.
        """
        plain = {name: value for name, value in asdict(self).items() if name not in _LEFT_OUT or value != ADDED[name]}
        return {**plain, "fasttrain": __version__}


def parse_formats(given: str, *, raw: bool) -> set[str]:
    """Return the formats, "tar" or "beton", in the value of `--format`, which separates them by commas.

    Raises UserError for an unknown format, and for "beton" if `raw` is True, because a .beton needs JPEGs.
    """
    formats = {each.strip() for each in given.split(",")}
    if unknown := formats - {"tar", "beton"}:
        raise UserError(f"--format {given}: '{min(unknown)}' is neither tar nor beton; give tar or tar,beton")
    if raw and "beton" in formats:
        raise UserError(f"--format {given} needs JPEGs, but --raw stores none: leave out --format, or --raw")
    return formats
