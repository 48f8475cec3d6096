"""Rank algorithms by their paired comparisons.

Bradley, Terry, "Rank analysis of incomplete block designs", Biometrika 1952: algorithm a beats b with
probability 1 / (1 + exp(s_b − s_a)). Fitted with Jeffreys' prior (Firth, "Bias reduction of maximum
likelihood estimates", Biometrika 1993), which takes away the bias of first order and keeps strengths finite
where one never loses. It is worth one vote less than there are algorithms, however many pairs there are.
Intervals are those of the jackknife over clusters, to first order, with Student's t distribution (Bell,
McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples", Survey
Methodology 2002).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, stdtrit

from perceptual.chance import FEWEST, LEVEL
from perceptual.collect.stopping import Count

Floats = NDArray[np.float64]
STEPS, LONGEST_STEP, CLOSE = 500, 1.0, 1e-9


class Ranked(NamedTuple):
    """Strength of an algorithm (log-odds against the average), its 95 % interval, and its votes."""

    name: str
    strength: float
    low: float
    high: float
    won: int
    asked: int
    group: int  # of algorithms that were compared, if only by way of others; the average is the group's


class _Fit(NamedTuple):
    strength: Floats  # (A,)
    chance: Floats  # (A, A), that row beats column
    covariance: Floats  # (A, A), if votes were independent


def strengths(wins: Floats) -> Floats:
    """Strengths s (A,), with mean 0, of A algorithms from wins (A, A): how often row beat column.

    Algorithms of groups that were never compared have mean 0 in each group.
    """
    return _fit(wins).strength


def _fit(wins: Floats) -> _Fit:
    games, strength = wins + wins.T, np.zeros(len(wins))
    for _ in range(STEPS):
        chance = expit(strength[:, None] - strength)
        weight = games * chance * chance.T
        covariance = np.linalg.pinv(np.diag(weight.sum(1)) - weight, hermitian=True)
        spread = np.diag(covariance)
        prior = weight * (spread[:, None] + spread - 2 * covariance)  # votes, half of them each way
        step = covariance @ (wins - games * chance + prior * (0.5 - chance)).sum(1)
        longest = np.abs(step).max()
        strength = strength + step * min(1, LONGEST_STEP / max(longest, CLOSE))
        if longest < CLOSE:
            break
    return _Fit(strength, chance, covariance)


def rank(
    first: Sequence[str], second: Sequence[str], counts: Sequence[Count], cluster: NDArray[np.int64]
) -> list[Ranked]:
    """Rank algorithms, the strongest first within each group; all items weigh the same.

    Args:
        first, second: what made p0 and p1 of each of N items.
        counts: of the votes of each.
        cluster: (N,) number of what is independent, such as the reference, 0 … C − 1.

    Returns:
        the algorithms; the ends of their intervals are NaN for too few clusters, or where one cluster alone
        says how strong one is.
    """
    names = sorted({*first, *second})
    a, b = (np.array([names.index(name) for name in side], np.int64) for side in (first, second))
    other = a != b
    a, b, cluster = a[other], b[other], np.unique(cluster[other], return_inverse=True)[1]
    n, k = np.array([(one.n, one.k) for one in counts], int).reshape(-1, 2)[other].T
    judgment = np.array([one.judgment for one in counts])[other]
    votes = n.mean() if len(n) else 0.0  # of an item
    wins = _sums(len(names), b, a, votes * judgment) + _sums(len(names), a, b, votes * (1 - judgment))
    fit = _fit(wins)
    half = _half_widths(fit, a, b, votes * (judgment - fit.chance[b, a]), votes, cluster)
    won = (_sums(len(names), b, a, k) + _sums(len(names), a, b, n - k)).astype(int)
    _, group = connected_components(won + won.T, directed=False)
    found = [
        Ranked(
            name,
            float(fit.strength[i]),
            float(fit.strength[i] - half[i]),
            float(fit.strength[i] + half[i]),
            int(won[i].sum()),
            int(won[i].sum() + won[:, i].sum()),
            int(group[i]),
        )
        for i, name in enumerate(names)
    ]
    return sorted(found, key=lambda one: (one.group, -one.strength))


def _sums(
    size: int, row: NDArray[np.int64], column: NDArray[np.int64], values: NDArray[np.generic]
) -> Floats:
    found = np.zeros((size, size))
    np.add.at(found, (row, column), values)
    return found


def _half_widths(
    fit: _Fit,
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    residual: Floats,
    votes: float,
    cluster: NDArray[np.int64],
) -> Floats:
    """Half the width of the interval of each strength (A,), NaN where there is none."""
    size, clusters = len(fit.strength), int(cluster.max(initial=-1)) + 1
    if clusters < FEWEST:
        return np.full(size, np.nan)
    design = np.eye(size)[b] - np.eye(size)[a]
    weight = votes * fit.chance[b, a] * fit.chance[a, b]
    variance = np.zeros(size)
    for number in range(clusters):
        rows = cluster == number
        moved = design[rows] @ fit.covariance
        left = np.eye(int(rows.sum())) - weight[rows, None] * (moved @ design[rows].T)
        if np.linalg.svd(left, compute_uv=False)[-1] < 1e-6:  # without this cluster nothing is known
            return np.full(size, np.nan)
        variance += np.square(np.linalg.solve(left, residual[rows]) @ moved)
    half: Floats = stdtrit(clusters - 1, (1 + LEVEL) / 2) * np.sqrt(variance)
    return half
