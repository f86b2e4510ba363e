"""`tools/gpu_pack.sh`: the parts of it that need neither a compiler nor the registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_some_photographs_of_each_class_go_along(tmp_path):
    for name, count in {"train/cat": 5, "test/cat": 2, "train/dog": 1}.items():
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "all" / name / f"{number}.jpg").write_bytes(b"a photograph")
    (tmp_path / "all" / "README.md").write_text("no photograph")
    command = [sys.executable, str(ROOT / "tools" / "some_photographs.py")]
    said = subprocess.check_output([*command, str(tmp_path / "all"), str(tmp_path / "some"), "4"], text=True)
    assert said == "4 photographs\n"
    some = [path.parent.name for path in (tmp_path / "some").rglob("*.jpg")]
    assert sorted(some) == ["cat", "cat", "cat", "dog"]
