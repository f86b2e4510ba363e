"""Write fasttrain/model/published.csv from timm's own results: `python tools/published_models.py RESULTS DATE`.

RESULTS: the file results/results-imagenet.csv of https://github.com/huggingface/pytorch-image-models. DATE: the date of
the file's last change.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "fasttrain" / "model" / "published.csv"


def main() -> None:
    results, date = Path(sys.argv[1]), sys.argv[2]
    best: dict[str, dict[str, str]] = {}
    with results.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["model"] not in best or float(row["top1"]) > float(best[row["model"]]["top1"]):
                best[row["model"]] = row
    with OUT.open("w", newline="") as file:
        source = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"
        file.write(f"# {date} {source}, each model at its best size; parameters in millions, top1 in percent\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["model", "parameters", "image_size", "top1"])
        for name, row in sorted(best.items()):
            table.writerow([name, row["param_count"].replace(",", ""), row["img_size"], row["top1"]])


if __name__ == "__main__":
    main()
