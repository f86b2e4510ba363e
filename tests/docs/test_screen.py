"""docs/scripts/screen.py, which draws a session in a terminal as an SVG."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "scripts"))

import screen  # noqa: E402

FEET = 24  # px from a line's clipping rectangle to the lowest point of its letters, at 20 px


def heights(picture: str) -> tuple[float, float, float]:
    """Return where the last line, the terminal's clipping rectangle and the window end, in px from the first line."""
    lines = re.findall(r'-line-\d+">\s*<rect x="0" y="([\d.]+)"', picture)
    clip = re.search(r'clip-terminal">\s*<rect [^>]*height="([\d.]+)', picture)
    top = re.search(r'<g transform="translate\(\d+, (\d+)\)"', picture)
    window = re.search(r'y="1" width="\d+" height="([\d.]+)" rx="8"', picture)
    assert clip and top and window
    return float(lines[-1]) + FEET, float(clip[1]), 1 + float(window[1]) - float(top[1])


def test_the_last_line_has_its_feet(tmp_path: Path) -> None:
    out = tmp_path / "screen.svg"
    screen.draw(out, tmp_path, ["printf 'one\\njpgqy'"])
    assert "jpgqy" in out.read_text("utf-8")
    for picture in (out, ROOT / "docs" / "pictures" / "run.svg"):
        line, clip, window = heights(picture.read_text("utf-8"))
        assert line < clip < window, picture
