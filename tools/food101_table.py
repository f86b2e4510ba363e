"""Print the table of the runs that tools/food101.sh has finished: `python tools/food101_table.py OUT`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from fasttrain.config.load import read_toml

HEADER = ("model", "weights", "top1 on the test split, mean (seeds)", "goal", "minutes a run", "photographs", "GPU")
GOALS = {"mobilenetv2_100": "84 %", "efficientnet_b0": "87 %"}


def row(runs: Path, gpu: str) -> list[str]:
    """Return the table's cells for one model.

    `runs`: the model's folder, with a folder of runs for each seed. `gpu`: the GPU's name. Raises SystemExit if a run
    was not evaluated on the test split.
    """
    done = sorted(runs.glob("*/*/evaluation.json"), key=lambda path: int(path.parents[1].name))
    found = [json.loads(path.read_text()) for path in done]
    if splits := {each["split"] for each in found} - {"test"}:
        raise SystemExit(f"{runs}: a run was evaluated on {splits.pop()}, not on test; convert Food-101's own splits")
    top1 = [100 * each["top1"] for each in found]
    name = json.loads(done[0].with_name("model.json").read_text())["model"]
    config = read_toml(done[0].with_name("config.toml"))
    tag = name.partition(".")[2] or "timm's default"
    minutes = statistics.mean(each["training_seconds"] for each in found) / 60
    return [
        runs.name,
        tag if config.get("pretrained", True) else "none",
        f"{statistics.mean(top1):.2f} % ({', '.join(f'{each:.2f}' for each in top1)})",
        GOALS.get(runs.name, "–"),
        f"{minutes:.0f}" if minutes >= 1 else f"{minutes:.1f}",
        f"{found[0]['samples']:,}",
        gpu,
    ]


def main() -> None:
    out = Path(sys.argv[1])
    gpu = (out / "gpu.txt").read_text().strip()
    models = [folder for folder in sorted((out / "runs").iterdir()) if any(folder.glob("*/*/evaluation.json"))]
    lines = [HEADER, ["---"] * len(HEADER), *(row(folder, gpu) for folder in models)]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))


if __name__ == "__main__":
    main()
