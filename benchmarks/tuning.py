"""Recipes of tuning on images and under conditions never seen: `python -m benchmarks.tuning FILE.csv`.

For each of several splits by image, train.py tunes a backbone with each recipe, and the last checkpoint is
scored on the held-out images as people judged them and under simulated conditions
(`perceptual.evaluation.robustness.conditions`), or with `--attacks` under attack, as in a trust report: the
shares of right and of flipped decisions among those on which all votes agree. Runs that are in `--runs`
already are not repeated. Differences are to the first recipe, paired by split, with the 95 % interval of
Student's t over splits.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.recipes import show
from perceptual.data import ManifestDataModule
from perceptual.distance.attacks import STRENGTHS
from perceptual.evaluation.methods import build
from perceptual.evaluation.robustness import trust
from perceptual.evaluation.robustness.conditions import CONDITIONS, score_under

FIRST = dict(list(CONDITIONS.items())[:1])
RECIPES = ["experiment=paper_tune", "experiment=unseen_tune"]
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


def scores(asked: argparse.Namespace, split: int) -> list[dict[str, float]]:
    """Numbers in % by name, of the uncalibrated distance and of each recipe."""
    data = ManifestDataModule(asked.path, split_seed=split)
    data.setup("validate")
    assert data.val_set is not None
    methods = {"uncalibrated": build(f"{asked.backbone}-uncalibrated")}
    methods |= {recipe: build(str(tuned(asked, recipe, split))) for recipe in asked.recipes}
    found = score_under(methods, data.val_set, FIRST if asked.attacks else CONDITIONS)
    rows = [{name: 100 * value for name, value in of.items() if name != "mean"} for of in found.values()]
    if asked.attacks:
        judged, strength = trust.choose(data.val_set), STRENGTHS[asked.attacks]
        for row, distance in zip(rows, methods.values(), strict=True):
            pgd = trust.attacked(distance, judged.confident, seed=0)
            values = trust.attack(distance, judged, strength, 0, pgd)
            row |= {name: 100 * float(value.mean()) for name, value in values.items()}
    print(split, *rows, sep="\n  ", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Print a table: conditions down, recipes across, then each recipe's difference to the paper's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="manifest of triplets")
    parser.add_argument("--backbone", default="alexnet", help="name of a network")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="words of train.py")
    parser.add_argument("--attacks", choices=list(STRENGTHS), help="in place of conditions")
    parser.add_argument("--runs", default="runs/tuning", help="folder of the runs")
    asked = parser.parse_args()
    found = [scores(asked, split) for split in range(asked.splits)]
    names = "; ".join(["uncalibrated", *asked.recipes])
    print(f"{asked.backbone}, {asked.splits} splits: {names}; then less the first recipe's")
    columns = [*found[0][0], *([] if asked.attacks else ["mean of the others"])]
    show(np.array([[list(row.values()) for row in rows] for rows in found]), columns)


if __name__ == "__main__":
    main()
