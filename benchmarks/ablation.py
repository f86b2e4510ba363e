"""Each ingredient of fasttrain's recipes on real photographs: the recipe without it, three seeds, paired bootstrap.

    python benchmarks/ablation.py list                               # recipes and their ingredients
    python benchmarks/ablation.py run accurate mixup 1               # one run: recipe, ingredient left out, seed
    python benchmarks/ablation.py run accurate nothing 1             # the recipe as it is
    while python benchmarks/ablation.py next; do :; done             # all that are missing; exit code 3: there is none
    python benchmarks/ablation.py table                              # docs/benchmarks/ablation.md

Photographs and weights are those of `benchmarks/accuracy.py`, whose first lines say what to install. An ingredient
that is left out has the value that it has without a recipe. All runs begin with an epoch of the classifier alone and
keep the first third of the blocks frozen, as short runs with `--minutes` do; that halves their time. `fast`, the recipe
of `--minutes`, runs on images of the contest's size, the others on smaller ones.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import Any

import records
from accuracy import DOCS, NOTHING_LEFT, SEEDS, SIDE, Contest, add_options
from contest import Contender

from fasttrain.config.recipes import RECIPES, recipe_defaults

NOTHING = "nothing"
BASE = {"head_epochs": 1, "freeze": 6, "monitor": "auto"}  # settings of all runs
EPOCHS = {"classic": 5, "fast": 5, "accurate": 20}  # with fewer than 20, "accurate" leaves ingredients out
SIDES = {"classic": 96, "fast": SIDE, "accurate": 96}  # px; the 30 runs of "accurate" take hours as it is
LENGTH = ("epochs", "early_stopping")  # settings of how long a run is, no ingredients


def settings(recipe: str, epochs: int | None) -> dict[str, Any]:
    """Return the settings of the recipe for a run from pretrained weights."""
    return recipe_defaults(recipe, {"weights": "given", "epochs": epochs or EPOCHS[recipe], **BASE})


def ingredients(recipe: str, epochs: int | None = None) -> list[str]:
    """Return the names of the settings that the recipe consists of."""
    return [name for name in settings(recipe, epochs) if name not in (*LENGTH, *BASE)]


def without(recipe: str, ingredient: str, epochs: int | None) -> Contender:
    """Return fasttrain with all settings of the recipe but one. They are given by name, for a recipe would add it."""
    kept = {name: value for name, value in settings(recipe, epochs).items() if name != ingredient}
    return Contender("ours.py", "fasttrain", kept | BASE)


def table(runs: list[records.Record]) -> str:
    """Return the results as Markdown, a table for each recipe."""
    parts = []
    for recipe in RECIPES:
        base = records.rights(runs, recipe=recipe, without=NOTHING)
        if not base:
            continue
        rows = [[f"{recipe} as it is", records.shown(records.interval(base)), "", str(len(base))]]
        for name in dict.fromkeys(run["without"] for run in runs if run["recipe"] == recipe):
            found = records.rights(runs, recipe=recipe, without=name)
            if name != NOTHING:
                gain = records.shown(records.interval(base, found), "+")
                rows.append([f"without {name}", records.shown(records.interval(found)), gain, str(len(found))])
        run = records.matching(runs, {"recipe": recipe})[0]
        title = f"`--recipe {recipe}`, {run['epochs']} epochs, {run['side']} px"
        header = [title, "top1, %", "what the ingredient adds, points", "seeds"]
        parts += [records.markdown(header, rows), ""]
    return "\n".join(parts) or "No run yet.\n"


def next_run(runs: list[records.Record], epochs: int | None) -> tuple[str, str, int] | None:
    """Return the first run that has no record: all ingredients with one seed before the next seed."""
    for seed, recipe in product(SEEDS, RECIPES):
        for name in (NOTHING, *ingredients(recipe, epochs)):
            if not records.has(runs, {"recipe": recipe, "without": name, "seed": seed}):
                return recipe, name, seed
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "run", "next", "table"])
    parser.add_argument("recipe", nargs="?", choices=RECIPES)
    parser.add_argument("ingredient", nargs="?", default=NOTHING)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    add_options(parser, DOCS / "ablation.jsonl")
    parser.set_defaults(side=None)
    given = parser.parse_args()
    runs = records.read(given.results)
    if given.what == "list":
        for recipe in RECIPES:
            print(f"{recipe}: {', '.join(ingredients(recipe, given.epochs))}")
        return
    if given.what == "table":
        given.results.with_suffix(".md").write_text(table(runs))
        return
    step = (given.recipe, given.ingredient, given.seed) if given.what == "run" else next_run(runs, given.epochs)
    if step is None:
        print("all runs are there")
        sys.exit(NOTHING_LEFT)
    recipe, ingredient, seed = step
    if recipe is None or ingredient not in (NOTHING, *ingredients(recipe, given.epochs)):
        parser.error("run takes a recipe, one of its ingredients (see `list`) and a seed")
    key = {"recipe": recipe, "without": ingredient, "seed": seed}
    if not records.has(runs, key):
        epochs = given.epochs or EPOCHS[recipe]
        given.side = given.side or SIDES[recipe]
        Contest(given).record(key, without(recipe, ingredient, epochs), seed, epochs, 0.0)


if __name__ == "__main__":
    main()
