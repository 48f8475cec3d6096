"""Opinion scores: how a distance correlates with mean ratings of single distorted images.

SRCC, KRCC and PLCC after a logistic fit, as in the Video Quality Experts Group's "Final report on the
validation of objective models of video quality assessment" (2000) and most studies of image quality since.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares
from scipy.special import expit
from torch import Tensor, tensor

from perceptual.chance import FEWEST
from perceptual.metrics.columns import TwoColumns

Correlation = Literal["srcc", "krcc", "plcc"]
CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)


class OpinionCorrelations(NamedTuple):
    """Agreement of a distance with opinion scores; NaN where either is constant."""

    srcc: float
    """Spearman's rank correlation, in [−1, 1]."""
    krcc: float
    """Kendall's rank correlation (τ-b, which allows for ties), in [−1, 1]."""
    plcc: float
    """Pearson's correlation after the logistic fit, in [0, 1]: whichever way the fit goes."""


def opinion_correlations(distance: Tensor, score: Tensor) -> OpinionCorrelations:
    """Correlations of distances with opinion scores.

    Args:
        distance: (N,) distance of each distorted image from its reference, N ≥ 5, finite.
        score: (N,) difference mean opinion score, larger = worse, on any scale, finite. For scores where
            larger is better (MOS) SRCC and KRCC come out negative.

    Raises:
        ValueError: shapes differ, fewer than 5 items (the fit has 4 parameters), a number is not finite.
    """
    _check(distance, score)
    if len(distance) < FEWEST:
        raise ValueError(f"distance and score must have at least {FEWEST} items, got {len(distance)}")
    d, s = (values.detach().cpu().double().numpy() for values in (distance, score))
    return OpinionCorrelations(*(_correlate(kind, d, s) for kind in CORRELATIONS))


def correlation(statistic: Callable[..., Any], x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Correlate two columns (N,) by a function of `scipy.stats`; NaN where either is constant."""
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(statistic(x, y).statistic)


def _correlate(kind: Correlation, d: NDArray[np.float64], s: NDArray[np.float64]) -> float:
    if kind != "plcc":
        return correlation({"srcc": stats.spearmanr, "krcc": stats.kendalltau}[kind], d, s)
    return correlation(stats.pearsonr, logistic_fit(d, s), s) if np.ptp(d) and np.ptp(s) else np.nan


def weighted_srcc(
    distances: NDArray[np.floating], score: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """SRCC (B,) of distances (1, N) with images counted by their whole weights (B, N).

    NaN where the weights leave fewer than five images, equal distances or equal scores.
    """
    x, y = (weighted_ranks(values, weights) for values in (distances[0], score))
    return np.where(weights.sum(1) < FEWEST, np.nan, weighted_correlation(x, y, weights))


def weighted_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pearson's correlation (B,) of two columns, (N,) or (B, N), counted by their weights (B, N).

    NaN where the weights leave one of them constant.
    """
    items, centred, known = weights.sum(1, keepdims=True).clip(min=1), [], np.ones(len(weights), bool)
    for column in (x, y):
        least, most = (np.where(weights > 0, column, end) for end in (np.inf, -np.inf))
        known &= least.min(1) < most.max(1)
        centred.append(column - (weights * column).sum(1, keepdims=True) / items)
    norm = np.sqrt(np.prod([(weights * column**2).sum(1) for column in centred], axis=0))
    correlation: NDArray[np.float64] = np.divide(
        (weights * centred[0] * centred[1]).sum(1), norm, out=np.full_like(norm, np.nan), where=known
    )
    return correlation


def weighted_ranks(values: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks (B, N) from 1, equal values sharing their mean rank, with values counted by their weights."""
    order = np.argsort(values)
    group = np.unique(values, return_inverse=True)[1]
    ends = np.flatnonzero(np.diff(group[order], append=-1))
    upto = weights[:, order].cumsum(1)[:, ends]
    ranks: NDArray[np.float64] = (upto - np.diff(upto, axis=1, prepend=0) / 2 + 0.5)[:, group]
    return ranks


def _check(distance: Tensor, score: Tensor) -> None:
    if distance.ndim != 1 or distance.shape != score.shape:
        shapes = f"{tuple(distance.shape)} and {tuple(score.shape)}"
        raise ValueError(f"distance and score must have one shape (N,), got {shapes}")
    if (infinite := int((~(distance.isfinite() & score.isfinite())).sum())) > 0:
        raise ValueError(f"distance and score must be finite, but {infinite} of {len(score)} items are not")


def logistic_fit(d: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores predicted from distances by VQEG's monotone logistic, β2 + (β1 − β2) / (1 + exp(−(d − β3)/β4)).

    Least squares over the four β, from (N,) finite distances and scores, neither constant; returns (N,).
    """
    z = (d - d.mean()) / d.std()  # any scale of distances starts from the same place

    def predicted(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        top, bottom, middle, slope = beta
        return bottom + (top - bottom) * expit(slope * (z - middle))

    rising = np.sign(np.corrcoef(z, s)[0, 1]) or 1.0
    start = [s.max(), s.min(), 0.0, rising]
    scale = [np.ptp(s), np.ptp(s), 1.0, 1.0]
    fit = least_squares(lambda beta: predicted(beta) - s, start, x_scale=scale, max_nfev=2000)
    return predicted(fit.x)


class OpinionCorrelation(TwoColumns):
    """One correlation of distances with opinion scores over all images seen: see `opinion_correlations`.

    `update(distance, score)`, (N,) each; `compute()` gives a float64 scalar (float32 on mps), NaN where
    either is constant or fewer than five images were given. In a `MetricCollection` the three share what
    they keep.

    Examples:
        >>> import torch
        >>> metric = OpinionCorrelation("srcc")
        >>> metric.update(torch.tensor([0.1, 0.2, 0.3, 0.5, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
        >>> metric.compute()
        tensor(0.9000, dtype=torch.float64)

    Args:
        correlation: `srcc` (Spearman), `krcc` (Kendall), or `plcc` (Pearson after a logistic fit).
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.

    Raises:
        ValueError: unknown correlation.
    """

    higher_is_better = True
    plot_lower_bound = -1.0
    plot_upper_bound = 1.0

    def __init__(self, correlation: Correlation = "srcc", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if correlation not in CORRELATIONS:
            raise ValueError(f"correlation must be one of {', '.join(CORRELATIONS)}, got {correlation!r}")
        self.correlation = correlation

    def update(self, distance: Tensor, score: Tensor) -> None:
        """Add N images: distances from their references and opinion scores, larger = worse, (N,) each."""
        _check(distance, score)
        self.keep(distance, score)

    def compute(self) -> Tensor:
        """The correlation over the images of all processes."""
        distance, score = self.kept()
        value = np.nan
        if len(distance) >= FEWEST:
            value = _correlate(self.correlation, distance.double().numpy(), score.double().numpy())
        return tensor(value, dtype=self.float_type, device=self.device)
