"""Instructions that one core executes to decode a crop, `predict`'s too, and to cut a photograph, counted by callgrind.

Unlike time, the count is the same on a busy machine, so two versions can be compared to a tenth of a percent:
`pytest benchmarks/test_instructions.py --results before`, change the C++, `--results after`. Valgrind has no AVX-512,
so the AVX2 code is counted.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from fasttrain.photos.cut import cut_jpeg, native_available

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = 6
PASSES = (1, 3)  # the difference leaves the start of the process out
# The work, the longest side in px, how the photograph is encoded, and whether it is cut first.
CASES = {
    "decode, 4:2:0": ("decode", 512, {"subsampling": "4:2:0"}, True),
    "decode, 4:4:4": ("decode", 512, {"subsampling": "4:4:4"}, True),
    "decode, 4:2:0, 4000 px": ("decode", 4000, {"subsampling": "4:2:0"}, True),
    "decode, 4:2:0, bicubic": ("bicubic", 512, {"subsampling": "4:2:0"}, True),
    "decode, 4:2:0, not cut": ("decode", 512, {"subsampling": "4:2:0"}, False),
    "decode, progressive, not cut": ("decode", 512, {"subsampling": "4:2:0", "progressive": True}, False),
    "predict, 4:2:0, 500 px": ("predict", 500, {"subsampling": "4:2:0"}, False),
    "predict, 4:2:0, 4000 px": ("predict", 4000, {"subsampling": "4:2:0"}, False),
    "cut, 4:2:0": ("cut", 512, {"subsampling": "4:2:0"}, False),
    "cut, progressive": ("cut", 512, {"subsampling": "4:2:0", "progressive": True}, False),
}


def test_instructions(photographs, results, tmp_path):
    if not (shutil.which("valgrind") and shutil.which("g++") and native_available()):
        pytest.skip("needs valgrind, g++ and the native module")
    program = build(tmp_path)
    every = sorted(photographs.rglob("*.jpg"))
    sources = every[:: max(len(every) // PHOTOGRAPHS, 1)][:PHOTOGRAPHS]
    part = {}
    for name, (work, side, encoding, cut) in CASES.items():
        folder = tmp_path / re.sub(r"\W+", "-", name)
        folder.mkdir()
        paths = [encode(source, folder, side, encoding, cut) for source in sources]
        few, many = (count(program, work, passes, paths) for passes in PASSES)
        part[name] = (many - few) / (PASSES[1] - PASSES[0]) / len(paths)
    results.add("instructions", part)
    rows = [[name, f"{each / 1e6:.3f}"] for name, each in part.items()]
    results.add_table("instructions", ["work", "million instructions a photograph"], rows)


def build(folder: Path) -> Path:
    """Compile `count.cpp` with the decoder as CMake compiles it, and return the program's path."""
    native = ROOT / "fasttrain" / "native"
    sources = [path for path in native.rglob("*.cpp") if path.parent.name != "bind"]
    command = ["g++", "-std=c++17", "-O3", "-DNDEBUG", f"-I{native}", ROOT / "benchmarks/instructions/count.cpp"]
    subprocess.run([*command, *sources, "-ljpeg", "-lpthread", "-o", folder / "count"], check=True)
    return folder / "count"


def encode(source: Path, folder: Path, side: int, encoding: dict[str, object], cut: bool) -> Path:
    """Write the photograph with this longest side and encoding, and return its path."""
    image = Image.open(source).convert("RGB")
    scale = side / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    image.save(encoded := io.BytesIO(), "JPEG", quality=90, **encoding)
    path = folder / f"{source.stem}.jpg"
    path.write_bytes(cut_jpeg(encoded.getvalue(), "mcu", True, 1) if cut else encoded.getvalue())
    return path


def count(program: Path, work: str, passes: int, paths: list[Path]) -> int:
    """Return the instructions that the program executes from start to end."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, work, str(passes), *paths]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.search(r"Collected : (\d+)", said)
    assert found, said
    return int(found[1])
