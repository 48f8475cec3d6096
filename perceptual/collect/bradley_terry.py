"""Rank algorithms by their paired comparisons.

Bradley, Terry, "Rank analysis of incomplete block designs", Biometrika 1952: algorithm a beats b with
probability 1 / (1 + exp(s_b − s_a)). Fitted by the iteration of Hunter, "MM algorithms for generalized
Bradley–Terry models", Annals of Statistics 2004.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perceptual.evaluation.intervals import FEWEST

Floats = NDArray[np.float64]
PRIOR = 0.5  # votes each way between any two algorithms: strengths stay finite where one never loses
DRAWS = 500


class Ranked(NamedTuple):
    """An algorithm, its strength (log-odds against the average) and its 95 % interval, and its votes."""

    name: str
    strength: float
    low: float
    high: float
    won: float
    asked: float


def strengths(wins: Floats, steps: int = 2000) -> Floats:
    """Strengths s (A,), with mean 0, of A algorithms from wins (A, A): how often row beat column."""
    wins = wins + PRIOR * (1 - np.eye(len(wins)))
    games, won = wins + wins.T, wins.sum(1)
    ability = np.ones(len(wins))
    for _ in range(steps):
        new = won / (games / (ability[:, None] + ability[None])).sum(1)
        new /= np.exp(np.log(new).mean())
        if np.abs(np.log(new / ability)).max() < 1e-9:
            break
        ability = new
    found: Floats = np.log(ability)
    return found - found.mean()


def rank(
    first: Sequence[str],
    second: Sequence[str],
    n: Floats,
    k: Floats,
    cluster: NDArray[np.int64],
    seed: int = 0,
) -> list[Ranked]:
    """Rank algorithms, the strongest first; intervals by drawing clusters of items with replacement.

    Args:
        first, second: what made p0 and p1 of each of N items.
        n: (N,) votes.
        k: (N,) votes for p1.
        cluster: (N,) number of what is drawn, such as the reference, 0 … C − 1.
        seed: of the draws.

    Returns:
        the algorithms; the ends of their intervals are NaN for too few clusters.
    """
    names = sorted({*first, *second})
    a, b = (np.array([names.index(name) for name in side], np.int64) for side in (first, second))

    def fit(weight: Floats) -> Floats:
        wins = np.zeros((len(names), len(names)))
        np.add.at(wins, (a, b), weight * (n - k))
        np.add.at(wins, (b, a), weight * k)
        np.fill_diagonal(wins, 0)
        return strengths(wins)

    rng = np.random.default_rng(seed)
    count = int(cluster.max()) + 1
    drawn = np.stack(
        [
            fit(np.bincount(rng.integers(count, size=count), minlength=count)[cluster].astype(float))
            for _ in range(DRAWS)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    if len(np.unique(cluster)) < FEWEST:
        low, high = np.full((2, len(names)), np.nan)
    best = fit(np.ones(len(n)))
    other = a != b
    found = []
    for i, name in enumerate(names):
        won = (n - k)[(a == i) & other].sum() + k[(b == i) & other].sum()
        asked = n[((a == i) | (b == i)) & other].sum()
        found.append(Ranked(name, float(best[i]), float(low[i]), float(high[i]), float(won), float(asked)))
    return sorted(found, key=lambda one: -one.strength)
