"""Recipes of calibration on images and under conditions never seen: `python -m benchmarks.recipes FILE.csv`.

For each of several splits by image, the channel weights are trained as train.py does with each recipe, on the
means of cached features, and scored on the held-out images as people judged them and under simulated
conditions (`perceptual.evaluation.robustness.conditions`). Differences are paired by split, with the 95 %
interval of Student's t over splits.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from perceptual.data import ManifestDataModule
from perceptual.data.augmentation import view
from perceptual.data.images import as_floats
from perceptual.data.splits import split_by_image
from perceptual.distance.level import unit_normalize
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.robustness.conditions import CONDITIONS
from perceptual.features.backbone import Backbone
from perceptual.metrics import two_afc_score
from perceptual.ranking import RANKINGS, ranking_loss
from perceptual.training.optimization import paper_factor

EPOCHS, BATCH = 10, 50
PAPER = {"ranking": "paper", "ones": False, "lr": 1e-4, "dropout": 0.5, "views": 0}
RECIPES: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "unseen_lin": {"ranking": "antisymmetric", "ones": True, "lr": 0.005, "dropout": 0.0, "views": 8},
    "unseen_lin, before views": {
        "ranking": "antisymmetric",
        "ones": True,
        "lr": 0.01,
        "dropout": 0.0,
        "views": 0,
    },
}


class Triplets:
    """All triplets of a manifest as means of squared differences, for one backbone; images are few."""

    def __init__(self, path: str, backbone: str) -> None:
        data = ManifestDataModule(path, val_fraction=1)
        data.setup("validate")
        self.table = data.val_set.table
        self.lpips = LPIPS(Backbone(backbone), lin=None)
        count = int(self.table.items.max()) + 1
        self.images = as_floats(data.val_set.images.batch(torch.arange(count)))
        self.first, self.second = torch.triu_indices(count, count, 1)
        number = torch.zeros(count, count, dtype=torch.long)
        number[self.first, self.second] = number[self.second, self.first] = torch.arange(len(self.first))
        ref, p0, p1 = map(torch.from_numpy, self.table.items)
        self.pairs = torch.stack([number[ref, p0], number[ref, p1]], dim=1)
        self.judgment = torch.from_numpy(self.table.answer)

    @torch.no_grad()
    def means(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """(P, C) of every pair of the images, changed."""
        maps = [self.lpips.maps(part) for part in change(self.images).split(20)]
        levels = []
        for level in zip(*maps, strict=True):
            f = unit_normalize(torch.cat(level)).flatten(2)
            products = torch.einsum("icp,jcp->ijc", f, f) / f.shape[2]
            own = torch.einsum("iic->ic", products)
            levels.append(own[self.first] + own[self.second] - 2 * products[self.first, self.second])
        return torch.cat(levels, dim=1).clamp(min=0)

    def score(self, lin: Tensor, means: Tensor, rows: Tensor) -> float:
        """2AFC of channel weights on some triplets, in %."""
        d0, d1 = (means @ lin)[self.pairs[rows]].T
        return 100 * two_afc_score(d0, d1, self.judgment[rows]).item()


def start(channels: Sequence[int], seed: int, ones: bool) -> Tensor:
    """Channel weights (C,) at the start of a recipe."""
    torch.manual_seed(seed)
    parts = [torch.ones(c) if ones else torch.empty(c).uniform_(-(c**-0.5), c**-0.5) for c in channels]
    return torch.cat(parts)


def train(data: Any, lin: Tensor, views: list[Tensor], rows: Tensor, recipe: dict[str, Any]) -> Tensor:
    """Channel weights (C,) by a recipe, from those of `start`, of data with `pairs` and `judgment`."""
    lin = lin.requires_grad_()
    ranking, drop = RANKINGS[recipe["ranking"]](), torch.nn.Dropout(recipe["dropout"])
    optimizer = torch.optim.Adam([lin, *ranking.parameters()], lr=recipe["lr"], betas=(0.5, 0.999))
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = recipe["lr"] * paper_factor(epoch, EPOCHS)
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            means = views[int(batch.sum()) % (recipe["views"] + 1)][data.pairs[batch]]
            d0, d1 = (means * drop(lin)).sum(-1).unbind(1)
            loss = ranking_loss(ranking(d0, d1), data.judgment[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lin.data.clamp_(min=0)
    return lin.detach()


def interval(differences: np.ndarray) -> str:
    """Mean and 95 % interval over splits, (splits,)."""
    count = len(differences)
    half = student.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5 if count > 1 else np.nan
    return f"{differences.mean():+.2f} ± {half:.2f}"


def show(scores: np.ndarray, names: Sequence[str] = (*CONDITIONS, "mean of the others")) -> None:
    """Print means over splits, then differences to the second recipe; (splits, recipes, names), in %."""
    if len(names) > scores.shape[2]:  # the mean of all conditions but the first
        scores = np.concatenate([scores, scores[:, :, 1:].mean(2, keepdims=True)], axis=2)
    for name, row in zip(names, np.moveaxis(scores, 2, 0), strict=True):
        gains = [interval(row[:, i] - row[:, 1]) for i in range(2, row.shape[1])]
        print(f"{name:20}", *(f"{value:6.1f}" for value in row.mean(0)), "  ", *gains)


def main() -> None:
    """Print a table: conditions down, recipes across, then each recipe's difference to the paper's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="manifest of triplets of few images")
    parser.add_argument("--backbone", default="alexnet")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    asked = parser.parse_args()
    data = Triplets(asked.path, asked.backbone)
    views = [data.means(partial(view, number=n)) for n in range(9)]
    conditions = {name: data.means(change) for name, change in CONDITIONS.items()}
    names = dict.fromkeys(["paper", *asked.recipes])
    scores = np.empty((asked.splits, len(names) + 1, len(conditions)))
    for split in range(asked.splits):
        masks = split_by_image(data.table, 0.3, split)
        rows, held_out = (torch.from_numpy(np.flatnonzero(mask)) for mask in masks)
        lins = [torch.ones(views[0].shape[1])]
        for name in names:
            first = start(data.lpips.backbone.channels, split, RECIPES[name]["ones"])
            lins.append(train(data, first, views, rows, RECIPES[name]))
        scores[split] = [[data.score(lin, m, held_out) for m in conditions.values()] for lin in lins]
    print(f"{asked.backbone}, {asked.splits} splits: uncalibrated, {', '.join(names)}; then less the paper's")
    show(scores)


if __name__ == "__main__":
    main()
