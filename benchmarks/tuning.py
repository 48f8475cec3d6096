"""Recipes of tuning on images and under conditions never seen: `python -m benchmarks.tuning FILE.csv`.

For each of several splits by image, train.py tunes a backbone with each recipe, and the last checkpoint is
scored on the held-out images as people judged them and under simulated conditions
(`perceptual.evaluation.robustness.conditions`). Runs that are in `--runs` already are not repeated.
Differences are paired by split, with the 95 % interval of Student's t over splits.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.recipes import show
from perceptual.data import ManifestDataModule
from perceptual.evaluation.methods import build
from perceptual.evaluation.robustness.conditions import CONDITIONS, score_under

PAPER = "experiment=paper_tune"
TRAIN = Path(__file__).parents[1] / "train.py"


def tuned(asked: argparse.Namespace, recipe: str, split: int) -> Path:
    """The last checkpoint of a recipe, given as train.py takes it; trained if there is none."""
    run = Path(asked.runs, f"{asked.backbone} {recipe}".replace("/", "_"), str(split))
    checkpoint = run / "checkpoints/last.ckpt"
    if not checkpoint.exists():
        words = [
            "data=manifest",
            f"data.path={asked.path}",
            f"backbone.name={asked.backbone}",
            f"seed={split}",
        ]
        words += [*recipe.split(), f"hydra.run.dir='{run.resolve()}'"]
        subprocess.run([sys.executable, TRAIN, *words], check=True)
    return checkpoint


def scores(asked: argparse.Namespace, recipes: list[str], split: int) -> list[list[float]]:
    """2AFC in % under each condition, of the uncalibrated distance and of each recipe."""
    data = ManifestDataModule(asked.path, split_seed=split)
    data.setup("validate")
    assert data.val_set is not None
    methods = {"uncalibrated": build(f"{asked.backbone}-uncalibrated")}
    methods |= {recipe: build(str(tuned(asked, recipe, split))) for recipe in recipes}
    found = score_under(methods, data.val_set)
    return [[100 * found[name][condition] for condition in CONDITIONS] for name in methods]


def main() -> None:
    """Print a table: conditions down, recipes across, then each recipe's difference to the paper's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="manifest of triplets")
    parser.add_argument("--backbone", default="alexnet", help="name of a network")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--recipes", nargs="+", default=["experiment=unseen_tune"], help="words of train.py")
    parser.add_argument("--runs", default="runs/tuning", help="folder of the runs")
    asked = parser.parse_args()
    recipes = list(dict.fromkeys([PAPER, *asked.recipes]))
    table = np.array([scores(asked, recipes, split) for split in range(asked.splits)])
    names = "; ".join(["uncalibrated", *recipes])
    print(f"{asked.backbone}, {asked.splits} splits: {names}; then less the paper's")
    show(table)


if __name__ == "__main__":
    main()
