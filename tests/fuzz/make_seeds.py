"""Seeds for the fuzzers: `python tests/fuzz/make_seeds.py FOLDER` fills FOLDER/cut, /decode and /differential."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "native"))

import jpegs

# The bytes that the fuzzers read before the JPEG: see their `choose` and LLVMFuzzerTestOneInput.
CUT_CHOICES = bytes([64, 0, 3, 5, 9, 12, 0, 0])
DECODE_CHOICES = bytes([0, 0, 3, 5, 20, 30, 0, 0x42])


def make_seeds(folder: Path) -> None:
    """Every kind of JPEG without restart markers, with one after every MCU, and every three; some of Pillow's."""
    photographs = {
        f"{number}-{restart}": jpegs.sample(kind, 37, 29, restart)
        for number, kind in enumerate(jpegs.FACTORS)
        for restart in (0, 1, 3)
    }
    for name, mode, subsampling in (("420", "RGB", 2), ("444", "RGB", 0), ("grey", "L", 0)):
        photographs[f"pillow-{name}"] = jpegs.pillow_jpeg(mode, 100, 80, subsampling)
    photographs["progressive"] = jpegs.pillow_jpeg("RGB", 100, 80, progressive=True)
    choices_of = {"cut": CUT_CHOICES, "decode": DECODE_CHOICES, "differential": DECODE_CHOICES}
    for fuzzer, choices in choices_of.items():
        (folder / fuzzer).mkdir(parents=True, exist_ok=True)
        for name, photograph in photographs.items():
            (folder / fuzzer / name).write_bytes(choices + photograph)


if __name__ == "__main__":
    make_seeds(Path(sys.argv[1]))
