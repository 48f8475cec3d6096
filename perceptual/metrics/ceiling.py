"""The ceiling: the best score that any distance can have against judges who disagree.

With p the true fraction of people who prefer p1 on an item, the best distance sides with the larger part and
scores E[max(p, 1 − p)]. The raw ceiling puts the few observed votes in the place of p and is too high. Here
the distribution of p over items is fitted to the counts of votes: a mixture of binomial distributions by
nonparametric maximum likelihood (Laird 1978, https://doi.org/10.1080/01621459.1978.10480103), on a grid, by
EM. Few votes do not determine that distribution (n votes, only its first n moments); linear programming over
all mixtures with the same frequencies of votes gives what they leave open (Lord 1969, Psychometrika 34).
Where people choose one of three, p has three parts, the grid is a triangle, and the mixture is of multinomial
distributions.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import gammaln, xlogy
from torch import Tensor

from perceptual.metrics.jnd import jnd_average_precision
from perceptual.metrics.votes import counted

Floats = NDArray[np.float64]

STEPS = {2: 100, 3: 24}  # of the grid from 0 to 1, by the number of choices: 101 and 325 points
# steps of EM; it ends before the mixture falls apart into points, which the votes cannot show
ITERATIONS = 2000
QUICK = 500  # within a bootstrap
SLACK = 0.25  # see `ceiling`
PANELS = 20  # simulated for JND
# Items that several people judged; one vote says nothing about how people differ. With fewer of them, and
# fewer than a tenth of all items, the estimate can fall below scores that distances do have.
ENOUGH = 100


class Ceiling(NamedTuple):
    """The best score that any distance can have, in [0, 1]."""

    estimate: float
    """NaN where hardly any item has two votes or more: fewer than 100, and than a tenth of the items."""
    lower: float
    """The least that some distribution with the same frequencies of votes gives."""
    upper: float
    """The most."""


def ceiling(judgment: Tensor, votes: Tensor, slack: float = SLACK) -> Ceiling:
    """The best 2AFC score that any distance can have: E[max(p, 1 − p)] under the distribution of p.

    The bounds are what the votes leave open, not an interval of sampling: the frequencies of 0 … n votes for
    p1, at the commonest number of votes n, are held within `slack` of their standard errors. Where p takes
    few sharp values (all ½, say) they are narrow, and sampling can put the truth outside.

    Examples:
        >>> judgment, votes = torch.tensor([0.0, 0.25, 0.5, 1.0]), torch.full((4,), 4)
        >>> found = ceiling(judgment.repeat(100), votes.repeat(100))
        >>> 0.7 < found.lower < found.estimate < found.upper < 0.9
        True

    Args:
        judgment: (N,) fraction of people who preferred p1, or (N, 3) who chose each of three, in [0, 1].
        votes: (N,) number of people asked; items without votes are left out.
        slack: standard errors by which the frequencies of the bounds' mixtures may differ from the fitted
            ones. With 0 the bounds are of few votes alone, and leave sampling out.

    Returns:
        all NaN where nobody was asked about any item.

    Raises:
        ValueError: shapes differ, or judgment · votes is not a whole number of people for some item.
    """
    k = _asked(judgment, votes)
    if not len(k):
        return Ceiling(np.nan, np.nan, np.nan)
    mixture = _fitted(k)
    best = grid(k.shape[1]).max(1)
    lower, upper = _bounds(k, mixture, best, slack)
    return Ceiling(float(mixture @ best) if _known(k) else np.nan, lower, upper)


def jnd_ceiling(same: Tensor, votes: Tensor, seed: int = 0) -> float:
    """The best JND average precision that any distance can have, in [0, 1]: pairs sorted by their true p.

    Mean over simulated panels: p is drawn for each pair from the fitted distribution, as many people as were
    asked answer by it, and `jnd_average_precision` scores 1 − p. NaN where nobody was asked, or where the
    estimate of `ceiling` is NaN.

    Args:
        same: (N,) fraction of people who said "same", in [0, 1].
        votes: (N,) number of people asked; pairs without votes are left out.
        seed: of the simulation.

    Raises:
        ValueError: as `ceiling` does.
    """
    k = _asked(same, votes)
    if not _known(k):
        return float("nan")
    mixture, n = _fitted(k), k.sum(1)
    rng, scores = np.random.default_rng(seed), []
    for _ in range(PANELS):
        p = rng.choice(grid(2)[:, 1], len(n), p=mixture / mixture.sum())
        said = rng.binomial(n.astype(int), p) / n
        scores.append(jnd_average_precision(torch.from_numpy(1 - p), torch.from_numpy(said)).item())
    return float(np.mean(scores))


def ceiling_draws(judgment: Tensor, votes: Tensor, times: Floats) -> Floats:
    """Estimates (B,) of the ceiling with each item counted (B, N) times, as a bootstrap needs them.

    NaN where nobody was asked about any item that counts.

    Arguments and errors as in `ceiling`; `times` are at least 0.
    """
    k = counted(judgment, votes)[0].numpy()
    cells, which = np.unique(k, axis=0, return_inverse=True)
    counts = np.stack([np.bincount(which.ravel(), row, len(cells)) for row in times]).astype(float)
    asked = cells.any(1)
    some = counts[:, asked].any(1)
    draws = np.full(len(times), np.nan)
    draws[some] = fit(cells[asked], counts[some][:, asked], QUICK) @ grid(k.shape[1]).max(1)
    return draws


@cache
def grid(choices: int) -> Floats:
    """Points (G, K) where p, the parts of people who make each of K choices, is looked for."""
    return _parts(STEPS[choices], choices) / STEPS[choices]


def _parts(total: int, choices: int) -> Floats:
    """All ways (G, K) to part a number of votes among K choices."""
    others = (row for row in product(range(total + 1), repeat=choices - 1) if sum(row) <= total)
    return np.array([(total - sum(row), *row) for row in others], float)


def _likelihood(cells: Floats) -> Floats:
    """Probability (C, G) of votes (C, K) for each choice, by the points of the grid."""
    ways = gammaln(cells.sum(1) + 1) - gammaln(cells + 1).sum(1)
    found: Floats = np.exp(ways[:, None] + xlogy(cells[:, None], grid(cells.shape[1])).sum(2))
    return found


def fit(cells: Floats, counts: Floats, iterations: int = ITERATIONS) -> Floats:
    """Weights (B, G) on the `grid` of the mixtures that are likeliest for B sets of counts.

    Args:
        cells: (C, K), votes for each choice, of each kind of item.
        counts: (B, C), how many items are of each kind, at least 0; not all 0.
        iterations: of EM at most.
    """
    likelihood = _likelihood(cells)
    share = counts / counts.sum(1, keepdims=True)
    weights = np.full((len(counts), likelihood.shape[1]), 1 / likelihood.shape[1])
    for _ in range(iterations):
        before = weights
        weights = weights * ((share / (weights @ likelihood.T)) @ likelihood)
        if np.abs(weights - before).max() < 1e-9:
            break
    return weights


def _asked(judgment: Tensor, votes: Tensor) -> Floats:
    """Votes (N, K) for each choice of the items that anybody was asked about."""
    k: Floats = counted(judgment, votes)[0].numpy()
    return k[k.any(1)]


def _fitted(k: Floats) -> Floats:
    """The likeliest mixture (G,) of votes (N, K)."""
    cells, counts = np.unique(k, axis=0, return_counts=True)
    return fit(cells, counts[None].astype(float))[0]


def _known(k: Floats) -> bool:
    """Whether items of these votes (N, K) say how people differ."""
    n = k.sum(1)
    return bool(len(n) and (n > 1).sum() >= min(ENOUGH, len(n) / 10))


def _bounds(k: Floats, mixture: Floats, best: Floats, slack: float) -> tuple[float, float]:
    """Least and largest score of the best distance of mixtures with the frequencies of the fitted one.

    Args:
        k: (N, K), votes for each choice.
        mixture: (G,), the fitted one.
        best: (G,), the score of the best distance, by the points of the grid.
        slack: of the frequencies, in standard errors.
    """
    numbers, items = np.unique(k.sum(1), return_counts=True)
    commonest, asked = int(numbers[items.argmax()]), items.max()
    likelihood = _likelihood(_parts(commonest, k.shape[1]))
    expected = likelihood @ mixture / mixture.sum()
    room = slack * np.sqrt(expected * (1 - expected) / asked) + 1e-9
    limits = np.concatenate([expected + room, room - expected])
    ends = []
    for sign in (1, -1):
        solved = linprog(
            sign * best, np.concatenate([likelihood, -likelihood]), limits, np.ones((1, len(best))), [1]
        )
        ends.append(sign * solved.fun)
    return ends[0], ends[1]
