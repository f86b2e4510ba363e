"""Draws docs/pictures/report.png from a run's page: `python docs/scripts/report_picture.py RUN`, with playwright.

On the left the page's beginning, on the right the confusion matrix and the photographs that were got wrong.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).resolve().parents[1] / "pictures" / "report.png"
WIDTH, HEIGHT = 1100, 1340  # px of a column
SCALE = 0.7273


def picture(page: Page) -> Image.Image:
    """Return both columns side by side."""
    left = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    both = Image.new("RGB", (2 * WIDTH, HEIGHT), left.getpixel((0, 0)))
    both.paste(left.crop((0, 0, WIDTH, HEIGHT)), (0, 0))
    top = 28
    for section in ("confusion", "mistakes"):
        box = page.locator(f"#{section}").bounding_box()
        assert box is not None
        part = left.crop((0, round(box["y"]), WIDTH, round(box["y"] + box["height"])))
        both.paste(part, (WIDTH, top))
        top += part.height + 20
    return both.resize((round(2 * WIDTH * SCALE), round(HEIGHT * SCALE)), Image.Resampling.LANCZOS)


def main(run: Path) -> None:
    """Draw the picture of the page in the folder of `run`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto((run.resolve() / "report.html").as_uri())
        picture(page).save(OUT, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
