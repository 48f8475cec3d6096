"""Opinion scores (DMOS): how a distance correlates with mean ratings of single distorted images.

SRCC, KRCC and PLCC after a logistic fit, as in the Video Quality Experts Group's "Final report on the
validation of objective models of video quality assessment" (2000) and most studies of image quality since.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares
from scipy.special import expit
from torch import Tensor


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
    if distance.ndim != 1 or distance.shape != score.shape or len(distance) < 5:
        shapes = f"{tuple(distance.shape)} and {tuple(score.shape)}"
        raise ValueError(f"distance and score must have one shape (N,), N at least 5, got {shapes}")
    if (infinite := int((~(distance.isfinite() & score.isfinite())).sum())) > 0:
        raise ValueError(f"distance and score must be finite, but {infinite} of {len(score)} items are not")
    d, s = (values.detach().cpu().double().numpy() for values in (distance, score))
    if np.ptp(d) == 0 or np.ptp(s) == 0:
        return OpinionCorrelations(np.nan, np.nan, np.nan)
    srcc, krcc = stats.spearmanr(d, s).statistic, stats.kendalltau(d, s).statistic
    plcc = stats.pearsonr(logistic_fit(d, s), s).statistic
    return OpinionCorrelations(float(srcc), float(krcc), float(plcc))


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
