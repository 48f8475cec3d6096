"""Paired bootstrap intervals, and methods that they cannot tell apart.

Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13 (percentile interval). Items
that share a reference are judged on one image and are not independent: references are drawn, each with its
items.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr, stdtrit

from perceptual.chance import FEWEST, LEVEL
from perceptual.metrics.kinds import Weighted
from perceptual.metrics.two_afc import weighted_mean

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 1000
TRIES = 8  # at a draw that says something
AT_ONCE = 4_000_000  # weights: 32 MB


class Intervals(NamedTuple):
    """Bootstrap of M methods on the same items. Columns: each subset, then their plain mean, then micro."""

    score: Floats
    """(M, columns), the scores themselves."""
    draws: Floats
    """(B, M, columns), scores of the resampled items; the items of a draw are the same for all methods."""

    @property
    def low(self) -> Floats:
        """(M, columns), lower ends of the intervals of the scores."""
        return ends(self.draws)[0] - self._shift

    @property
    def high(self) -> Floats:
        """(M, columns), upper ends."""
        return ends(self.draws)[1] - self._shift

    @property
    def _shift(self) -> Floats:
        # A mean is drawn without bias; the average precision of a draw, in which pairs recur, is too high by
        # about as much as the score is above the truth: without the shift 92 % of intervals had it in them.
        return 2 * (self.draws.mean(0) - self.score)


def ends(draws: Floats, clusters: int | None = None) -> Floats:
    """Lower and upper ends (2, …) of the intervals of draws (B, …); for `clusters` see `_tail`."""
    tail = _tail(clusters)
    # between B draws there are B + 1 places for what is drawn next
    found: Floats = np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull")
    return found


def within(lower: float, upper: float, error: float, clusters: int | None = None) -> tuple[float, float]:
    """Ends of an interval for a number of which only bounds are known, and these with an error.

    Imbens, Manski, "Confidence Intervals for Partially Identified Parameters", Econometrica 2004: wherever
    between the bounds the number lies, the interval holds it with probability `LEVEL` at least. Where the
    bounds are one it is the usual one of a normal error.

    Args:
        lower, upper: the bounds.
        error: standard error of the bounds, of a bootstrap; 0: none. NaN gives NaN.
        clusters: as in `_tail`.
    """
    if not error > 0:
        return lower + error, upper + error
    level = 1 - 2 * _tail(clusters)

    def lacks(times: float) -> float:
        return float(ndtr(times + (upper - lower) / error) - ndtr(-times) - level)

    reach = error * brentq(lacks, 0, 10)
    return lower - reach, upper + reach


def _tail(clusters: int | None) -> float:
    """What an interval leaves out at an end, as a share of the draws.

    Of few clusters, draws vary less than samples do: Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 2015, the expanded percentile interval.

    Args:
        clusters: how many were there to draw, at least 2; None: many.
    """
    tail = (1 - LEVEL) / 2
    if clusters is None:
        return tail
    return float(ndtr(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail)))


def resample(
    score: Callable[[Floats], Floats],
    cluster: Ints,
    subset: Ints | None = None,
    *,
    draws: int = DRAWS,
    seed: int | np.random.Generator = 0,
    needed: NDArray[np.bool_] | None = None,
) -> Floats:
    """Scores (B, …) of the items, their clusters drawn with replacement.

    Args:
        score: how often each item is drawn, (b, N) whole numbers → (b, …).
        cluster: (N,) number of what is drawn, 0 … C − 1: items that share it come together.
        subset: (N,) number of each item's subset; subsets that share no cluster are drawn apart.
        draws: B.
        seed: chooses the draws.
        needed: numbers of a score, (…), that a draw has to have: where one is NaN it is drawn again.
    """
    rng, count = np.random.default_rng(seed), int(cluster.max()) + 1
    parts = _parts(cluster, count, subset)

    def drawn(rows: int) -> Floats:
        times = np.zeros((rows, count))
        for part in parts:
            size = len(part)
            chosen = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            times[:, part] = np.bincount(chosen.ravel(), minlength=rows * size).reshape(rows, size)
        return score(times[:, cluster])

    rows, tries, found = max(1, AT_ONCE // len(cluster)), TRIES * draws, []
    for start in range(0, draws, rows):
        found.append(drawn(min(rows, draws - start)))
        # a draw that misses a subset says nothing about it
        while needed is not None and (unsaid := np.isnan(found[-1][:, needed]).any(1)).any() and tries > 0:
            tries -= int(unsaid.sum())
            found[-1][unsaid] = drawn(int(unsaid.sum()))
    return np.concatenate(found)


def _parts(cluster: Ints, count: int, subset: Ints | None) -> list[Ints]:
    """Clusters that are drawn together: subsets are linked by those that they share."""
    if subset is None:
        return [np.arange(count)]
    size = count + int(subset.max()) + 1
    links = coo_array((np.ones(len(cluster)), (cluster, count + subset)), (size, size))
    part = connected_components(links, directed=False)[1][:count]
    return [np.flatnonzero(part == number) for number in np.unique(part)]


def bootstrap(
    distances: Floats,
    subset: Ints,
    cluster: Ints,
    draws: int = DRAWS,
    seed: int = 0,
    *,
    answer: Floats | None = None,
    weighted: Weighted = weighted_mean,
    counting: NDArray[np.bool_] | None = None,
) -> Intervals:
    """Scores of M methods, and of resamplings of the items by cluster.

    Draws are NaN in a subset of which fewer than `FEWEST` clusters say something.

    Args:
        distances: (M, K, N) distances of each item by each method; of what is averaged (M, N).
        subset: (N,) number of each item's subset, each of 0 … S − 1 at least once.
        cluster, draws, seed: as in `resample`.
        answer: (N,) of people; not needed for a mean.
        weighted: the score, see `perceptual.metrics.kinds`.
        counting: (N,) items that can make their subset's score; all if None.
    """
    answer = np.zeros(len(subset)) if answer is None else answer
    counting = np.ones(len(subset), bool) if counting is None else counting
    distances = distances.reshape(len(distances), -1, len(subset))
    subsets = int(subset.max()) + 1
    members = [np.flatnonzero(subset == number) for number in range(subsets)]

    def columns(weights: Floats) -> Floats:
        groups = [*members, np.arange(len(subset))] if subsets > 1 else members
        each = []
        for rows in groups:
            times = weights[:, rows]
            each.append(np.stack([weighted(of[:, rows], answer[rows], times) for of in distances], axis=1))
        by_subset = np.stack(each[:subsets], axis=-1)
        return np.concatenate([by_subset, by_subset.mean(-1, keepdims=True), each[-1][..., None]], axis=-1)

    score = columns(np.ones((1, len(subset))))[0]
    few = [len(np.unique(cluster[rows][counting[rows]])) < FEWEST for rows in members]
    few += [any(few), len(np.unique(cluster[counting])) < FEWEST]
    needed = np.isfinite(score) & ~np.array(few)
    needed[:, subsets:] = False  # the means have what the subsets have
    found = resample(columns, cluster, subset, draws=draws, seed=seed, needed=needed)
    found[:, :, few] = np.nan
    return Intervals(score, found)


def rank_groups(score: Floats, draws: Floats) -> list[int]:
    """Group of each method, 1 = best: from the best down, a group ends before the first method that is worse.

    0 for a method whose draws are NaN: nothing can be said of it.

    Worse means that the paired interval of the group's leader minus that method lies above 0. Groups are
    runs of the ranking, so a method further down may still not differ significantly from a leader above.

    Args:
        score: (M,) scores, larger = better.
        draws: (B, M) scores of the same draws of items for all methods.
    """
    group = np.zeros(len(score), int)
    unsaid: NDArray[np.bool_] = np.isnan(draws.sum(0))
    number, leader = 0, -1
    for method in np.argsort(-score, kind="stable"):
        if unsaid[method]:
            continue
        if not number or ends(draws[:, leader] - draws[:, method])[0] > 0:
            number, leader = number + 1, method
        group[method] = number
    return group.tolist()


def clusters(ref: Ints) -> tuple[Ints, bool]:
    """Clusters of items by their reference, numbered from 0, and whether any reference recurs."""
    names, cluster = np.unique(ref, return_inverse=True)
    return cluster, len(names) < len(ref)
