"""Paired bootstrap intervals, and methods that they cannot tell apart.

Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13 (percentile interval). Items
that share a reference are judged on one image and are not independent: references are drawn, each with its
items.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 1000
LEVEL = 0.95
FEWEST = 5  # references, or images of opinions
TRIES = 8  # at a draw that says something


class Intervals(NamedTuple):
    """Bootstrap of M methods on the same items. Columns: each subset, then their plain mean, then micro."""

    score: Floats
    """(M, columns), the scores themselves."""
    draws: Floats
    """(B, M, columns), scores of the resampled items; the items of a draw are the same for all methods."""

    @property
    def low(self) -> Floats:
        """(M, columns), lower ends of the intervals of the scores."""
        return self._end((1 - LEVEL) / 2)

    @property
    def high(self) -> Floats:
        """(M, columns), upper ends."""
        return self._end((1 + LEVEL) / 2)

    def _end(self, share: float) -> Floats:
        # A mean is drawn without bias; the average precision of a draw, in which pairs recur, is too high by
        # about as much as the score is above the truth: without the shift 92 % of intervals had it in them.
        bias = self.draws.mean(0) - self.score
        ends: Floats = np.quantile(self.draws, share, axis=0) - 2 * bias
        return ends


def bootstrap(
    agreement: Floats,
    subset: NDArray[np.int64],
    cluster: NDArray[np.int64],
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """Scores of M methods, and of `draws` resamplings of the items by cluster.

    Args:
        agreement: (M, N) score of each item by each method.
        subset: (N,) number of each item's subset, each of 0 … S − 1 at least once.
        cluster: (N,) number of what is drawn with replacement, 0 … C − 1: items that share it come together.
        draws: B.
        seed: chooses the draws.
    """
    subsets = int(subset.max()) + 1
    place = cluster * subsets + subset  # items of a cluster and a subset only ever count together
    cells, place = np.unique(place, return_inverse=True)
    counts = np.bincount(place).astype(float)
    sums: Floats = np.stack([np.bincount(place, weights=row) for row in agreement]).astype(float)
    cluster_of, subset_of = np.divmod(cells, subsets)
    chance = _Chance(cluster, subset, seed)
    score = _means(np.ones((1, chance.clusters)), sums, counts, cluster_of, subset_of)[0]
    drawn = [
        _means(chance.weights(rows), sums, counts, cluster_of, subset_of)
        for rows in _chunks(draws, chance.clusters)
    ]
    return Intervals(score, chance.said(np.concatenate(drawn)))


class _Chance:
    """Draws clusters with replacement: within the subsets that share none, and so that no subset is without.

    Args:
        cluster, subset: (N,) numbers of each item's.
        seed: of the draws.
        counting: (N,) whether an item can make its subset's score; a draw needs one that does in each.
        fewest: items that a subset needs.
    """

    def __init__(
        self,
        cluster: Ints,
        subset: Ints,
        seed: int,
        counting: NDArray[np.bool_] | None = None,
        fewest: int = 0,
    ) -> None:
        self.clusters, subsets = int(cluster.max()) + 1, int(subset.max()) + 1
        self._rng = np.random.default_rng(seed)
        counting = np.ones(len(cluster), bool) if counting is None else counting
        member = np.zeros((self.clusters, subsets), bool)
        member[cluster[counting], subset[counting]] = True
        few = (member.sum(0) < FEWEST) | (np.bincount(subset[counting], minlength=subsets) < fewest)
        self._needed = member[:, ~few].astype(float)
        few_in_all = member.any(1).sum() < FEWEST or counting.sum() < fewest
        self.few = np.append(few, [few.any(), few_in_all])
        # subsets are linked by the clusters that they share
        links = coo_array(
            (np.ones(len(cluster)), (cluster, self.clusters + subset)), [self.clusters + subsets] * 2
        )
        _, part = connected_components(links, directed=False)
        self._parts = [np.flatnonzero(part[: self.clusters] == p) for p in np.unique(part[: self.clusters])]

    def weights(self, rows: int) -> Floats:
        """How often each cluster is drawn: (rows, C)."""
        drawn = self._drawn(rows)
        # a draw that misses a subset says nothing about it
        while (missing := ((drawn @ self._needed) == 0).any(1)).any():
            drawn[missing] = self._drawn(int(missing.sum()))
        return drawn

    def said(self, draws: Floats) -> Floats:
        """Draws (B, M, columns) with NaN in the columns of which too few clusters say something."""
        draws[:, :, self.few] = np.nan
        return draws

    def _drawn(self, rows: int) -> Floats:
        drawn = np.zeros((rows, self.clusters))
        for part in self._parts:
            size = len(part)
            chosen = self._rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            drawn[:, part] = np.bincount(chosen.ravel(), minlength=rows * size).reshape(rows, size)
        return drawn


def _chunks(draws: int, clusters: int) -> list[int]:
    rows = max(1, 4_000_000 // clusters)  # 32 MB of weights at a time
    return [min(rows, draws - start) for start in range(0, draws, rows)]


def _means(
    weights: Floats, sums: Floats, counts: Floats, cluster: NDArray[np.int64], subset: NDArray[np.int64]
) -> Floats:
    """Scores (B, M, columns) with each cluster counted by its weight (B, C)."""
    weights = weights[:, cluster]
    members = [subset == s for s in range(int(subset.max()) + 1)]
    totals = np.stack([weights[:, m] @ sums[:, m].T for m in members], axis=-1)
    items = np.stack([weights[:, m] @ counts[m] for m in members], axis=-1)[:, None]
    by_subset = np.divide(totals, items, out=np.full_like(totals, np.nan), where=items > 0)
    micro = totals.sum(-1, keepdims=True) / items.sum(-1, keepdims=True)
    return np.concatenate([by_subset, by_subset.mean(-1, keepdims=True), micro], axis=-1)


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
        if not number or np.quantile(draws[:, leader] - draws[:, method], (1 - LEVEL) / 2) > 0:
            number, leader = number + 1, method
        group[method] = number
    return group.tolist()


def clusters(ref: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    """Clusters of items by their reference, numbered from 0, and whether any reference recurs."""
    names, cluster = np.unique(ref, return_inverse=True)
    return cluster, len(names) < len(ref)


def bootstrap_precision(
    distance: Floats,
    same: Floats,
    subset: NDArray[np.int64],
    cluster: NDArray[np.int64],
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """As `bootstrap`, for the JND average precision of M methods.

    Args:
        distance: (M, N) distance of each pair by each method.
        same: (N,) fraction of people who said "same".
        subset, cluster, draws, seed: as in `bootstrap`.
    """
    chance = _Chance(cluster, subset, seed, same > 0)
    members = [np.flatnonzero(subset == s) for s in range(int(subset.max()) + 1)]
    everything = np.arange(len(same))

    def scores(weights: Floats) -> Floats:
        columns = [
            [_average_precision(row[m], same[m], weights[:, cluster[m]]) for m in [*members, everything]]
            for row in distance
        ]
        by_method = np.array(columns).transpose(2, 0, 1)  # (B, M, S + 1)
        return _with_macro(by_method)

    drawn = [scores(chance.weights(rows)) for rows in _chunks(draws, max(chance.clusters, len(same)))]
    return Intervals(scores(np.ones((1, chance.clusters)))[0], chance.said(np.concatenate(drawn)))


def _average_precision(distance: Floats, same: Floats, weights: Floats) -> Floats:
    """`jnd_average_precision` (B,) with pairs counted by their weights (B, N)."""
    order = np.argsort(distance)
    ranked = distance[order]  # infinite where PSNR is of equal images, so no difference is taken
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal distances enter together
    items = weights[:, order].cumsum(1)[:, ends]
    tp = (weights[:, order] * same[order]).cumsum(1)[:, ends]
    precision = np.divide(tp, items, out=np.zeros_like(tp), where=items > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area, called_same = (np.diff(tp, axis=1, prepend=0) * envelope).sum(1), tp[:, -1]
    return np.divide(area, called_same, out=np.full_like(area, np.nan), where=called_same > 0)


def bootstrap_correlation(
    distance: Floats,
    score: Floats,
    subset: NDArray[np.int64],
    cluster: NDArray[np.int64],
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """As `bootstrap`, for Spearman's correlation of M methods with opinion scores.

    NaN for a constant distance, where opinions are constant, or of fewer than `FEWEST` images, and draws of
    NaN where opinions are constant in most draws. A distance that is constant only in a draw has 0 there.

    Args:
        distance: (M, N) distance of each image from its reference by each method.
        score: (N,) opinion scores.
        subset, cluster, draws, seed: as in `bootstrap`.
    """
    members = [np.flatnonzero(subset == s) for s in range(int(subset.max()) + 1)]
    varied = np.isin(subset, [s for s, m in enumerate(members) if len(m) and np.ptp(score[m]) > 0])
    chance = _Chance(cluster, subset, seed, varied, FEWEST)
    together = np.concatenate([distance, score[None]])

    # what orders no images has no rank correlation, in a draw neither
    groups = [*members, np.arange(len(score))]
    constant = np.stack([distance[:, m].min(1) == distance[:, m].max(1) for m in groups], axis=-1)
    unsaid = _with_macro(np.where(constant, np.nan, 0.0))  # (M, columns)

    def scores(times: Ints) -> Floats:
        parts = [together[:, np.repeat(m, times[m])] for m in groups]
        return _with_macro(np.stack([_spearman(part) for part in parts], axis=-1)) + unsaid

    known = [m for m, few in zip(members, chance.few[: len(members)], strict=True) if not few]

    def says(times: Ints) -> bool:
        """Whether a draw has enough images in each subset, and opinions that differ."""
        return all(times[m].sum() >= FEWEST and np.ptp(score[m[times[m] > 0]]) > 0 for m in known)

    drawn: list[Floats] = []
    left = draws * TRIES
    while len(drawn) < draws:
        times, left = chance.weights(1)[0].astype(int)[cluster], left - 1
        if left < 0 or says(times):
            drawn.append(scores(times))
    return Intervals(scores(np.ones(len(score), int)), chance.said(np.stack(drawn)))


def _spearman(rows: Floats) -> Floats:
    """Rank correlation (M,) of each row but the last with the last, of (M + 1, N).

    0 for a constant row, NaN where the last is constant or short.
    """
    if rows.shape[1] < FEWEST or np.ptp(rows[-1]) == 0:
        return np.full(len(rows) - 1, np.nan)
    ranks = rankdata(rows, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    norm = norms[:-1] * norms[-1]
    return np.divide(ranks[:-1] @ ranks[-1], norm, out=np.zeros_like(norm), where=norm > 0)


def _with_macro(columns: Floats) -> Floats:
    """(…, S + 2) from (…, S + 1): the subsets, their plain mean put in, and the score of all items."""
    macro = columns[..., :-1].mean(-1, keepdims=True)
    return np.concatenate([columns[..., :-1], macro, columns[..., -1:]], axis=-1)
