"""Draws docs/drawings/*.svg: `python docs/scripts/drawings.py`. The boxes in plan.svg are the plan's own.

Each drawing has colours for light and dark of its own (by the system's scheme); the site's style sheet overrides them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fasttrain.loaders.plan import Crop, random_resized_crops

OUT = Path(__file__).resolve().parents[1] / "drawings"

_STYLE = """<style>
.ft-drawing{--ink:#1d2b36;--soft:#5b6b78;--line:#b9c4cc;--paper:#f3f6f8}
.ft-drawing{--warm:#d9722e;--cool:#00796b}
.ft-drawing{font:16px system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media (prefers-color-scheme:dark){
.ft-drawing{--ink:#e6edf3;--soft:#a3b1bd;--line:#4b5965;--paper:#2a3038}
.ft-drawing{--warm:#f0975c;--cool:#5fc9bb}
}
.ft-drawing text{fill:var(--ink)}
.ft-drawing .s{fill:var(--soft);font-size:14px}
.ft-drawing .b{font-weight:600}
.ft-drawing .c{text-anchor:middle}
.ft-drawing .m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:14px}
.ft-drawing .box{fill:var(--paper);stroke:var(--line);stroke-width:1.5}
.ft-drawing .arrow{fill:none;stroke:var(--soft);stroke-width:1.8;marker-end:url(#tip)}
.ft-drawing .grid{fill:none;stroke:var(--line);stroke-width:.8}
.ft-drawing .crop{fill:none;stroke:var(--warm);stroke-width:3}
.ft-drawing .in{fill:var(--warm);fill-opacity:.42}
.ft-drawing .edge{fill:var(--cool);fill-opacity:.38}
.ft-drawing .out{fill:var(--paper);fill-opacity:.72}
</style>
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 10 5 0 10z" style="fill:var(--soft)"/></marker></defs>"""


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="ft-drawing" viewBox="0 0 {width} {height}">'
    return "\n".join([head, f"<title>{title}</title>", _STYLE, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{text}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str, more: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{kind}" {more}/>'


def _arrow(*points: tuple[float, float]) -> str:
    return f'<path class="arrow" d="M{" ".join(f"{x:g} {y:g}" for x, y in points)}"/>'


def _dish(x: float, y: float, width: float, height: float) -> str:
    """A plate of pancakes, as the photograph: x, y, width, height in the drawing's units."""
    cx, cy, r = x + width / 2, y + height / 2, height * 0.46
    berries = [(-0.42, -0.2), (0.3, -0.38), (0.46, 0.22), (-0.1, 0.46), (-0.5, 0.3)]
    return "\n".join(
        [
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="#8d6e57"/>',
            f'<circle cx="{cx:g}" cy="{cy:g}" r="{r:g}" fill="#f4f1ea"/>',
            f'<circle cx="{cx:g}" cy="{cy:g}" r="{r * 0.76:g}" fill="#c98a46"/>',
            f'<circle cx="{cx:g}" cy="{cy:g}" r="{r * 0.66:g}" fill="#e0aa62"/>',
            f'<rect x="{cx - r * 0.16:g}" y="{cy - r * 0.2:g}" width="{r * 0.34:g}" height="{r * 0.3:g}" rx="4"'
            ' fill="#fbe58a"/>',
            *(
                f'<circle cx="{cx + dx * r:g}" cy="{cy + dy * r:g}" r="{r * 0.1:g}" fill="#3b4a8f"/>'
                for dx, dy in berries
            ),
        ]
    )


def cut() -> str:
    """A cut photograph, the crop and the MCUs under it; the file's bytes; the slice that is decoded."""
    columns, rows, side, x0, y0 = 13, 10, 24, 20, 56
    inside = (range(4, 9), range(3, 7))  # columns and rows under the crop
    copied = (range(3, 10), range(2, 8))  # and one MCU of margin
    crop = (x0 + 4.45 * side, y0 + 3.35 * side, 4.1 * side, 3.2 * side)

    def kind(column: int, row: int) -> str:
        if column in inside[0] and row in inside[1]:
            return "in"
        return "edge" if column in copied[0] and row in copied[1] else "out"

    cells = [(column, row) for row in range(rows) for column in range(columns)]
    parts = [_text(20, 24, "A cut photograph in the shard", "b")]
    parts += [
        _text(20, 45, "one restart marker after every MCU (16 × 16 px)", "s"),
        _dish(x0, y0, columns * side, rows * side),
    ]
    parts += [_rect(x0 + c * side, y0 + r * side, side, side, kind(c, r)) for c, r in cells]
    parts += [_rect(x0 + c * side, y0 + r * side, side, side, "grid") for c, r in cells]
    parts += [_rect(*crop, "crop")]

    # the slice
    sx, sy = 420, y0 + 2 * side
    wide, high = len(copied[0]), len(copied[1])
    parts += [_text(sx, 24, "The slice: a small JPEG", "b"), _text(sx, 45, "SOF patched, RSTs renumbered", "s")]
    clip = f'<clipPath id="slice"><rect x="{sx}" y="{sy}" width="{wide * side}" height="{high * side}"/></clipPath>'
    shift = sx - (x0 + copied[0][0] * side)
    parts += [
        clip,
        f'<g clip-path="url(#slice)"><g transform="translate({shift} 0)">',
        _dish(x0, y0, columns * side, rows * side),
        "</g></g>",
    ]
    for column in copied[0]:
        for row in copied[1]:
            x, y = column * side + x0 + shift, row * side + y0
            parts += [_rect(x, y, side, side, kind(column, row)), _rect(x, y, side, side, "grid")]
    parts += [_rect(crop[0] + shift, *crop[1:], "crop")]
    parts += [_arrow((x0 + columns * side + 8, sy + high * side / 2), (sx - 10, sy + high * side / 2))]
    parts += [_text(x0 + columns * side + 46, sy + high * side / 2 - 10, "copy", "s c")]

    # the output
    ox, oy, out = 700, y0 + 2 * side, 6 * side
    zoom_x, zoom_y = out / crop[2], out / crop[3]
    move = f"translate({ox} {oy}) scale({zoom_x:.4f} {zoom_y:.4f}) translate({-crop[0]:g} {-crop[1]:g})"
    parts += [_text(ox, 24, "What the model gets", "b"), _text(ox, 45, "decoded, then resized to 224 px", "s")]
    parts += [f'<clipPath id="out"><rect x="{ox}" y="{oy}" width="{out}" height="{out}"/></clipPath>']
    parts += [f'<g clip-path="url(#out)"><g transform="{move}">{_dish(x0, y0, columns * side, rows * side)}</g></g>']
    parts += [_rect(ox, oy, out, out, "crop"), _arrow((sx + wide * side + 8, oy + out / 2), (ox - 10, oy + out / 2))]
    parts += [_text(sx + wide * side + 50, oy + out / 2 - 10, "decode", "s c")]

    # the key
    for y, name, said in (
        (260, "in", "under the crop"),
        (286, "edge", "one MCU of margin, for the upsampling of the colours"),
    ):
        parts += [_rect(sx, y, 18, 18, name), _rect(sx, y, 18, 18, "grid"), _text(sx + 28, y + 14, said, "s")]
    parts += [_rect(sx + 170, 260, 18, 18, "box"), _text(sx + 198, 274, "neither copied nor decoded", "s")]

    # the bytes of one row
    top, row, x = 368, 4, 20.0
    parts += [_text(20, 332, "The file’s bytes: one row of MCUs", "b")]
    parts += [
        _text(
            20,
            353,
            "At a marker the data ends at a byte and the DC prediction starts anew: a run of MCUs is copied undecoded.",
            "s",
        )
    ]
    parts += [_rect(x, top, 86, 30, "box"), _text(x + 43, top + 20, "header", "s c"), _text(x + 96, top + 20, "…", "s")]
    x += 116
    widths = [44, 38, 48, 42, 50, 56, 54, 48, 52, 40, 46, 38, 42]
    for column, width in enumerate(widths):
        parts += [
            _rect(x, top, width, 30, "box"),
            _rect(x, top, width, 30, kind(column, row)),
            _rect(x, top, width, 30, "grid"),
        ]
        parts += [_rect(x + width, top, 8, 30, "", 'fill="var(--soft)"')]
        if column == copied[0][0]:
            first = x
        if column == copied[0][-1]:
            last = x + width + 8
        x += width + 8
    parts += [_text(x + 8, top + 20, "…", "s")]
    parts += [f'<path class="arrow" style="marker-end:none" d="M{first:g} {top + 38} v8 H{last:g} v-8"/>']
    parts += [_text((first + last) / 2, top + 66, "copied to the slice as it stands", "s c")]
    parts += [_rect(136, top + 55, 8, 14, "", 'fill="var(--soft)"'), _text(152, top + 67, "RST marker", "s")]
    return _svg(
        940,
        446,
        "The cut: restart markers after every MCU let a loader copy and decode only the part under the crop",
        parts,
    )


def plan() -> str:
    """(seed, epoch, id) to box and flip, drawn for one photograph in four epochs; every loader gets the same."""
    seed, sample, height, width = 42, 23, 384, 512
    parts = [_rect(20, 20, 262, 150, "box", 'rx="8"'), _text(151, 48, "The augmentation plan", "b c")]
    parts += [_text(151, 80, f"seed = {seed}, epoch, id = {sample}", "m c"), _arrow((151, 90), (151, 112))]
    parts += [_text(151, 132, "Philox: key (seed, epoch),", "s c"), _text(151, 152, "counter id → random words", "s c")]
    parts += [_text(310, 28, f"Photograph {sample}, 512 × 384 px: what seed {seed} makes of it", "b")]
    ids, sizes = np.array([sample]), np.array([[height, width]], np.int32)
    scale, out = 136 / width, 84
    for epoch in range(4):
        boxes, flips = random_resized_crops(ids, sizes, seed, epoch, Crop())
        top, left, high, wide = (int(each) for each in boxes[0])
        x, y = 310 + epoch * 158, 66
        photo = _dish(0, 0, width, height)
        parts += [
            _text(x, y - 8, f"epoch {epoch}", "s"),
            f'<g transform="translate({x} {y}) scale({scale:.5f})">{photo}</g>',
        ]
        box = (x + left * scale, y + top * scale, wide * scale, high * scale)
        outer = f"M{x} {y}h{width * scale:g}v{height * scale:g}h{-width * scale:g}z"
        hole = f"M{box[0]:g} {box[1]:g}v{box[3]:g}h{box[2]:g}v{-box[3]:g}z"
        parts += [f'<path class="out" d="{outer}{hole}" style="fill-rule:evenodd"/>', _rect(*box, "crop")]
        parts += [_text(x, y + 124, f"{wide} × {high} px", "s"), _text(x, y + 143, f"at {left}, {top}", "s")]
        parts += [_text(x, y + 162, "flipped" if flips[0] else "not flipped", "s")]
        mirror = f"translate({out} 0) scale(-1 1)" if flips[0] else ""
        move = f"translate({x} {y + 174}) {mirror} scale({out / wide:.5f} {out / high:.5f}) translate({-left} {-top})"
        parts += [f'<clipPath id="out{epoch}"><rect x="{x}" y="{y + 174}" width="{out}" height="{out}"/></clipPath>']
        parts += [f'<g clip-path="url(#out{epoch})"><g transform="{move}">{photo}</g></g>']
        parts += [_rect(x, y + 174, out, out, "crop")]
    parts += [_arrow((151, 170), (151, 344))]
    parts += [_text(166, 252, "ids, boxes and", "s"), _text(166, 272, "flips of a batch", "s")]
    parts += [_rect(20, 344, 900, 100, "box", 'rx="8"'), _text(40, 378, "Any loader", "b")]
    for number, name in enumerate(("native", "torchvision", "ffcv", "dali")):
        parts += [
            _rect(170 + number * 182, 358, 164, 34, "edge", 'rx="6"'),
            _text(252 + number * 182, 380, name, "m c"),
        ]
    said = "any batch size, workers or ranks: the same photographs in the same order, the same crops and flips"
    parts += [_text(40, 424, said, "s")]
    return _svg(
        940,
        460,
        "The plan: order, crop boxes and flips are a pure function of seed, epoch and sample id, for all loaders",
        parts,
    )


def pipeline() -> str:
    """The stages, the folder of the package that holds each, and what passes between them."""
    stages = [
        ("photographs", "folder, Food-101", "photos"),
        ("shards", "tar with an index", "shards"),
        ("loader", "crop, decode", "loaders"),
        ("model", "augment, step", "training"),
        ("checkpoint", "resumable", "checkpoint"),
        ("report", "figures, worst", "report"),
    ]
    passes = ["convert", "train", "uint8, NHWC", "", ""]
    parts = [_text(12, 24, "From photographs to a report", "b")]
    for number, (name, what, folder) in enumerate(stages):
        x = 12 + number * 158
        parts += [
            _rect(x, 66, 138, 76, "box", 'rx="8"'),
            _text(x + 69, 96, name, "b c"),
            _text(x + 69, 122, what, "s c"),
        ]
        parts += [_text(x + 69, 166, f"{folder}/", "m c")]
        if number:
            parts += [_arrow((x - 19, 104), (x - 1, 104)), _text(x - 10, 54, passes[number - 1], "s c")]
    parts += [
        _rect(324, 196, 304, 62, "box", 'rx="8" style="stroke:var(--warm)"'),
        _text(476, 222, "augmentation plan", "b c"),
    ]
    parts += [
        _text(476, 246, "(seed, epoch, id) → order, box, flip", "s c"),
        _arrow((397, 196), (397, 176)),
        _arrow((555, 196), (555, 176)),
    ]
    parts += [
        _text(12, 222, "The loader crops, decodes and flips;", "s"),
        _text(12, 242, "the device normalizes and augments.", "s"),
    ]
    parts += [
        _text(660, 222, "A checkpoint holds the loader’s", "s"),
        _text(660, 242, "place in the plan as well.", "s"),
    ]
    return _svg(954, 274, "The pipeline: photographs, shards, loader, model, checkpoint, report", parts)


def drawings() -> dict[str, str]:
    """File name to SVG."""
    return {"cut.svg": cut(), "plan.svg": plan(), "pipeline.svg": pipeline()}


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, svg in drawings().items():
        (OUT / name).write_text(svg, "utf-8")
