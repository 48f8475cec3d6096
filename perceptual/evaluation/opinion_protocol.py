"""How image-quality studies report a distance: correlations and error over all images, and by reference.

SRCC and KRCC; PLCC and RMSE after the logistic of four parameters (VQEG 2000, see `opinion`) and of five
(Sheikh, Sabir, Bovik 2006, "A statistical evaluation of recent full reference image quality assessment
algorithms", https://doi.org/10.1109/TIP.2006.881959).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares
from scipy.special import expit

from perceptual.chance import FEWEST
from perceptual.evaluation.statistics import ends, resample
from perceptual.metrics.opinion import correlation, logistic_fit, weighted_correlation, weighted_ranks

Floats = NDArray[np.float64]
STATISTICS = ("srcc", "krcc", "plcc4", "plcc5", "rmse4", "rmse5")
DRAWS = 500
kendall = partial(stats.kendalltau, method="asymptotic")  # of its p-value, which nobody reads
FEWEST_OF_A_REFERENCE = 3  # images with fewer have no correlation that says something


class Estimate(NamedTuple):
    """A statistic and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def logistic_fit_5(d: Floats, s: Floats) -> Floats:
    """Scores predicted from distances by β1 (½ − 1/(1 + exp(β2 (d − β3)))) + β4 d + β5.

    Least squares over the five β, from (N,) finite distances and scores, neither constant; returns (N,).
    """
    z = (d - d.mean()) / d.std()  # any scale of distances starts from the same place

    def predicted(beta: Floats) -> Floats:
        height, slope, middle, line, offset = beta
        return height * (expit(slope * (z - middle)) - 0.5) + line * z + offset

    line, offset = np.polyfit(z, s, 1)
    fits = [
        least_squares(
            lambda beta: predicted(beta) - s,
            start,
            method="lm",
            x_scale=[np.ptp(s), 1.0, 1.0, s.std(), np.ptp(s)],
            ftol=1e-12,
            xtol=1e-12,
            max_nfev=2000,
        )
        for start in (
            [np.sign(line) * np.ptp(s), 1.0, 0.0, 0.0, s.mean()],
            [0.1 * np.ptp(s), 3.0, 0.0, line, offset],
            [-0.1 * np.ptp(s), 3.0, 0.0, line, offset],
        )
    ]
    return predicted(min(fits, key=lambda fit: fit.cost).x)


def opinion_protocol(
    distance: Floats, score: Floats, reference: NDArray[np.int64], draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Every statistic over `all` images, and `within`: its mean over references.

    The logistics are fitted once, to all images, and not again to those of a draw or a reference. Intervals
    are a percentile bootstrap over references, each drawn with its images.

    Args:
        distance: (N,) distance of each distorted image from its reference, finite.
        score: (N,) larger = worse, on any scale, finite; RMSE has its unit.
        reference: (N,) number of each image's reference.
        draws: of the bootstrap.
        seed: chooses them.

    Returns:
        by `STATISTICS`, then `all` and `within`. `within` counts references with three or more images whose
        distances and scores vary, and is NaN without any. Everything is NaN for fewer than six images, a
        constant distance or constant scores; intervals are, for fewer than five references.
    """
    d, s = distance.astype(np.float64), score.astype(np.float64)
    nothing = Estimate(np.nan, np.nan, np.nan)
    if len(d) <= FEWEST or np.ptp(d) == 0 or np.ptp(s) == 0:
        return {name: {"all": nothing, "within": nothing} for name in STATISTICS}
    fits = (logistic_fit(d, s), logistic_fit_5(d, s))
    _, group = np.unique(reference, return_inverse=True)
    parts = np.array(
        [
            _statistics(d[rows], s[rows], [fit[rows] for fit in fits], np.ones((1, len(rows))))[0]
            for rows in (np.flatnonzero(group == number) for number in range(group.max() + 1))
            if len(rows) >= FEWEST_OF_A_REFERENCE and np.ptp(d[rows]) > 0 and np.ptp(s[rows]) > 0
        ]
    ).reshape(-1, len(STATISTICS))
    known = np.isfinite(parts)  # a fit may be flat over one reference
    rng = np.random.default_rng(seed)

    def repeated(times: Floats) -> Floats:
        return _statistics(d, s, fits, times)

    def averaged(times: Floats) -> Floats:
        return np.divide(
            times @ np.where(known, parts, 0),
            items := times @ known,
            out=np.full(items.shape, np.nan),
            where=items > 0,
        )

    found = {}
    for where, statistic, cluster in (("all", repeated, group), ("within", averaged, np.arange(len(parts)))):
        value = statistic(np.ones((1, len(cluster))))[0]
        low = high = np.full(len(STATISTICS), np.nan)
        if len(np.unique(cluster)) >= FEWEST:
            needed = np.isfinite(value)
            low, high = ends(resample(statistic, cluster, draws=draws, seed=rng, needed=needed))
        found[where] = np.stack([value, low, high])
    return {
        name: {where: Estimate(*map(float, numbers[:, i])) for where, numbers in found.items()}
        for i, name in enumerate(STATISTICS)
    }


def _statistics(d: Floats, s: Floats, fits: Sequence[Floats], times: Floats) -> Floats:
    """`STATISTICS` (B, 6) of N images that count so many times, (B, N)."""
    repeats = [np.arange(len(d)).repeat(row.astype(int)) for row in times]
    columns = [
        weighted_correlation(weighted_ranks(d, times), weighted_ranks(s, times), times),
        np.array([correlation(kendall, d[rows], s[rows]) for rows in repeats]),
        *(weighted_correlation(fit, s, times) for fit in fits),
        *(np.sqrt(times @ (fit - s) ** 2 / times.sum(1)) for fit in fits),
    ]
    return np.stack(columns, axis=1)
