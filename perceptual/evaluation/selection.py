"""Choosing among runs: seeds of one setting averaged, and the score of the best corrected for the choice.

The best of many is best partly by luck on the items that it was chosen on. How much, the bootstrap shows: the
best is chosen again in each draw (Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 17).
Scores differ more than what is true behind them, so draws are taken about scores that are shrunk towards
their mean (James, Stein 1961): of equal settings, all the lead of the best is luck.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from perceptual.evaluation.results import Result
from perceptual.evaluation.statistics import Floats, Intervals, ends

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
    errors = draws - score
    own = errors - errors.mean(1, keepdims=True)  # what the items do to all alike decides nothing
    noise = float((own**2).mean(0).sum()) / max(len(score) - 1, 1)
    spread = float(score.var(ddof=1)) if len(score) > 1 else 0.0
    kept = max(0.0, 1 - noise / spread) if spread else 0.0
    true = score.mean() + kept * (score - score.mean())
    luck = errors[np.arange(len(draws)), (true + errors).argmax(1)]
    low, high = ends(luck)
    return Picked(float(score[best] - luck.mean()), float(score[best] - high), float(score[best] - low))


def average_seeds(results: Sequence[Result], intervals: Intervals) -> tuple[list[Result], Intervals]:
    """Take runs of the same settings, but for the seed, as one with the mean of their scores.

    That is the result of the first run, with `seeds`, the number of runs, and no setting `seed`. Other
    results stay as they are.
    """
    groups: dict[str, list[int]] = {}
    for number, result in enumerate(results):
        same = _without_seed(result)
        groups.setdefault(repr(same) if result.settings else f"result {number}", []).append(number)
    if len(groups) == len(results):
        return list(results), intervals
    averaged = [results[members[0]] for members in groups.values()]
    averaged = [
        replace(one, settings=_without_seed(one), seeds=len(members)) if one.settings is not None else one
        for one, members in zip(averaged, groups.values(), strict=True)
    ]
    means = np.stack(
        [np.bincount(members, minlength=len(results)) / len(members) for members in groups.values()]
    )
    return averaged, Intervals(means @ intervals.score, np.einsum("gm,bmc->bgc", means, intervals.draws))


def _without_seed(result: Result) -> dict[str, Any]:
    return {key: value for key, value in (result.settings or {}).items() if key != SEED}
