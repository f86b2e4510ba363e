"""Pictures with any number of coloured shapes, and a table of their classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "cross", "square", "stripe")


def draw_scenes(folder: Path, count: int = 80, side: int = 48, seed: int = 0) -> Path:
    """Draw `count` pictures into `folder`, a tenth of them empty. Return the table, JSON lines of classes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        there = random.random(len(CLASSES)) < (0.5, 0.4, 0.3, 0.15)
        there &= number % 10 != 0
        ground = random.integers(40, 110, 3) + random.integers(-12, 13, (side, side, 3))
        picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        for place, kind in zip(random.permutation(4).tolist(), np.flatnonzero(there).tolist(), strict=False):
            x, y = (side // 2) * (place % 2) + 4, (side // 2) * (place // 2) + 4
            far = side // 2 - 8
            if kind == 0:
                draw.ellipse((x, y, x + far, y + far), fill=(230, 60, 60))
            elif kind == 1:
                draw.line((x, y, x + far, y + far), fill=(60, 220, 80), width=4)
                draw.line((x + far, y, x, y + far), fill=(60, 220, 80), width=4)
            elif kind == 2:
                draw.rectangle((x, y, x + far, y + far), fill=(70, 90, 240))
            else:
                for row in range(y, y + far, 4):
                    draw.line((x, row, x + far, row), fill=(240, 230, 70), width=2)
        picture.save(folder / f"{number:03d}.jpg", quality=92)
        classes = [CLASSES[kind] for kind in np.flatnonzero(there)]
        lines.append(json.dumps({"path": f"{number:03d}.jpg", "labels": classes}))
    table = folder / "labels.jsonl"
    table.write_text("\n".join(lines) + "\n")
    return table
