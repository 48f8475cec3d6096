"""Choosing among runs: seeds of one setting averaged, and the score of the best corrected for the choice.

The best of many is best partly by luck on the items that it was chosen on. How much: in each bootstrap draw
the best is chosen again, and what it scores there above its score on the items themselves is its luck
(Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 17.6, with the choice repeated).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perceptual.evaluation.intervals import LEVEL, Floats, Intervals
from perceptual.evaluation.results import Row

SEED = "seed"


class Picked(NamedTuple):
    """The score that the best of several can be expected to have on other items, with its 95 % interval."""

    score: float
    low: float
    high: float


def corrected(score: Floats, draws: Floats) -> Picked:
    """The best of M scores, less the luck of having been chosen.

    Args:
        score: (M,) scores, larger = better.
        draws: (B, M) scores of the same draws of items for all.
    """
    best = int(score.argmax())
    chosen = draws.argmax(1)
    luck = float((draws[np.arange(len(draws)), chosen] - score[chosen]).mean())
    low, high = np.quantile(draws[:, best], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Picked(float(score[best]) - luck, float(low) - luck, float(high) - luck)


def average_seeds(rows: Sequence[Row], intervals: Intervals) -> tuple[list[Row], Intervals]:
    """Runs of the same settings, but for the seed, as one row each with the mean of their scores.

    Such a row is that of the first run, has `seeds`, the number of runs, and no setting `seed`. Other rows
    stay as they are.
    """
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        same = {key: value for key, value in row.get("settings", {}).items() if key != SEED}
        groups.setdefault(repr(same) if row.get("settings") else f"row {number}", []).append(number)
    if len(groups) == len(rows):
        return list(rows), intervals
    averaged = []
    for members in groups.values():
        row = dict(rows[members[0]])
        if "settings" in row:
            row["settings"] = {key: value for key, value in row["settings"].items() if key != SEED}
            row["seeds"] = len(members)
        averaged.append(row)
    means = np.stack(
        [np.bincount(members, minlength=len(rows)) / len(members) for members in groups.values()]
    )
    return averaged, Intervals(means @ intervals.score, np.einsum("gm,bmc->bgc", means, intervals.draws))
