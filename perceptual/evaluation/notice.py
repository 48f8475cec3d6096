"""Fit how many people notice a difference to its distance, on pairs that they called the same or not.

The curve is a psychometric function with a floor (people see differences that are not there) and a ceiling
(people miss large ones), see Wichmann and Hill 2001, https://doi.org/10.3758/BF03194544; here it is
logistic in log d. Its likelihood is that of the votes; intervals are of draws of references.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import chi2

from perceptual.chance import FEWEST, LEVEL
from perceptual.data.kinds import JND
from perceptual.data.table import Table
from perceptual.distance.noticed import Noticed
from perceptual.evaluation.scoring import Columns
from perceptual.evaluation.statistics import Floats, Ints, clusters, ends, resample

FILE = "noticed.json"  # in the folder of a run: the curve of its final weights
BINS = 256  # of pairs by distance; narrower ones change no digit that counts
STEPS = 60  # of Levenberg and Marquardt's method
HALF = 0.5  # floors lie below, ceilings above
WIDE = 9.0  # bound of a floor or ceiling on its logistic scale: 0.01 % of `HALF`
NOTHING = -1e4  # logarithm of a distance of 0


class Fitted(NamedTuple):
    """The curve, and what is drawn of it."""

    noticed: Noticed
    distances: Floats
    """(G,) at which it is drawn."""
    low: Floats
    """(G,) lower ends of the 95 % intervals of the share there; NaN where too few references are known."""
    high: Floats
    bins: Floats
    """(3, M): mean distance, share who noticed, and votes of the pairs of each bin."""


def fit(
    distance: Floats,
    same: Floats,
    votes: Floats | None = None,
    references: Ints | None = None,
    data: str = "judged pairs",
    draws: int = 1000,
    seed: int = 0,
) -> Fitted:
    """Fit the share of people who notice.

    Args:
        distance: (N,) of each pair, at least 0.
        same: (N,) fraction of people who called it the same.
        votes: (N,) people asked; None: one for each pair.
        references: (N,) number of what pairs share, drawn together for intervals; None: nothing.
        data: what the pairs are, in words.
        draws: for intervals.
        seed: of the draws.

    Raises:
        ValueError: distances that are negative or not finite, or pairs that say nothing of such a curve.
    """
    distance, n = distance.astype(float), np.ones(len(same)) if votes is None else votes.astype(float)
    if not (np.isfinite(distance).all() and (distance >= 0).all()):
        raise ValueError("the curve is of distances from 0, and some are negative or not finite")
    k = n * (1 - same.astype(float))
    cluster, _ = clusters(np.arange(len(same)) if references is None else references)
    order = np.argsort(distance, kind="stable")
    starts = np.unique(np.linspace(0, len(order), min(BINS, len(order)), endpoint=False).astype(int))
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(distance[order]), NOTHING)
    x = np.add.reduceat(logs, starts) / np.diff(np.append(starts, len(order)))

    def counts(times: Floats) -> tuple[Floats, Floats]:
        found = (np.add.reduceat(times[:, order] * of[order], starts, axis=1) for of in (k, n))
        noticed, asked = found
        return noticed, asked

    noticed, asked = counts(np.ones((1, len(order))))
    theta = _best(x, noticed, asked)

    def curves(times: Floats) -> Floats:
        return _climb(np.repeat(theta[None], len(times), 0), x, *counts(times))

    found = resample(curves, cluster, draws=draws, seed=seed)
    positive = distance[distance > 0]
    grid = np.geomspace(np.quantile(positive, 0.01), positive.max(), 100)
    count = int(cluster.max()) + 1
    known = count >= FEWEST
    low, high = ends(_shares(found, np.log(grid)), count) if known else np.full((2, len(grid)), np.nan)
    first, last = np.exp(ends(found[:, 0], count)) if known else (np.nan, np.nan)
    middle, steep, floor, lapse = theta
    curve = Noticed(
        threshold=float(np.exp(middle)),
        slope=float(np.exp(steep)),
        floor=float(HALF * expit(floor)),
        ceiling=float(1 - HALF * expit(lapse)),
        low=float(first) if known else None,
        high=float(last) if known else None,
        pairs=len(order),
        data=data,
    )
    shown = np.stack([np.exp(x), noticed[0] / np.maximum(asked[0], 1e-300), asked[0]])
    return Fitted(curve, grid, low, high, shown)


def of_table(table: Table, columns: Columns) -> Noticed | None:
    """The curve of distances at the end of a training run; None of other kinds, or where there is no fit."""
    if table.kind != JND:
        return None
    references = table.same_content().items[0]
    try:
        names = " and ".join(table.subsets)
        return fit(columns[0], table.answer, table.votes, references, names, draws=200).noticed
    except ValueError:  # such as pairs that all have one answer
        return None


def _best(x: Floats, noticed: Floats, asked: Floats) -> Floats:
    """The likeliest parameters (4,) of one set of counts (1, M); raises ValueError if it says nothing."""
    k, n = noticed.sum(), asked.sum()
    if k <= 0 or k >= n:
        raise ValueError(f"everybody called every pair {'the same' if k <= 0 else 'different'}: no fit")
    seen = x[x > NOTHING / 2]
    if not len(seen) or np.ptp(seen) < 1e-6:
        raise ValueError("all pairs have one distance: no fit")
    begin = [
        [middle, steep, -2.0, -2.0] for middle in np.quantile(seen, [0.2, 0.5, 0.8]) for steep in (0.0, 1.5)
    ]
    rows = len(begin)
    found = _climb(np.array(begin), x, np.repeat(noticed, rows, 0), np.repeat(asked, rows, 0))
    likelihoods = _likelihood(_shares(found, x), noticed, asked)
    constant = _likelihood(np.full((1, len(x)), k / n), noticed, asked)[0]
    if 2 * (likelihoods.max() - constant) < chi2.ppf(LEVEL, 3):
        raise ValueError("what people noticed does not depend on the distance of these pairs: no fit")
    best: Floats = found[likelihoods.argmax()]
    return best


def _climb(theta: Floats, x: Floats, noticed: Floats, asked: Floats) -> Floats:
    """Raise the likelihood of B sets of counts (B, M) from parameters (B, 4), all at once."""
    theta, damping = theta.copy(), np.full(len(theta), 1e-3)
    lower = np.array([x[x > NOTHING / 2].min() - 3, np.log(0.05), -WIDE, -WIDE])
    upper = np.array([x.max() + 3, np.log(100), WIDE, WIDE])
    value = _likelihood(_shares(theta, x), noticed, asked)
    for _ in range(STEPS):
        p, slopes = _shares(theta, x), _slopes(theta, x)
        weight = asked / (p * (1 - p))
        gradient = np.einsum("bm,bmi->bi", (noticed - asked * p) / (p * (1 - p)), slopes)
        information = np.einsum("bmi,bmj->bij", slopes * weight[..., None], slopes)
        diagonal = np.einsum("bii->bi", information) * damping[:, None] + 1e-6
        step = np.linalg.solve(information + diagonal[:, :, None] * np.eye(4), gradient[..., None])[..., 0]
        tried = np.clip(theta + np.clip(step, -1, 1), lower, upper)
        risen = _likelihood(_shares(tried, x), noticed, asked)
        better = risen > value
        gain = np.where(better, risen - value, 0)
        theta[better], value[better] = tried[better], risen[better]
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-6, 1e6)
        if (gain < 1e-7).all() and (damping > 1e-1).all():
            break
    return theta


def _shares(theta: Floats, x: Floats) -> Floats:
    """Shares (B, M) at log d (M,)."""
    middle, steep, floor, lapse = (part[:, None] for part in theta.T)
    least, most = HALF * expit(floor), 1 - HALF * expit(lapse)
    share: Floats = np.clip(least + (most - least) * expit(np.exp(steep) * (x - middle)), 1e-9, 1 - 1e-9)
    return share


def _slopes(theta: Floats, x: Floats) -> Floats:
    """Derivatives (B, M, 4) of the shares."""
    middle, steep, floor, lapse = (part[:, None] for part in theta.T)
    least, missed, s = HALF * expit(floor), HALF * expit(lapse), np.exp(steep)
    risen = expit(s * (x - middle))
    change = (1 - missed - least) * risen * (1 - risen)
    parts = (-s * change, s * (x - middle) * change)
    ends_of = (least * (1 - expit(floor)) * (1 - risen), -missed * (1 - expit(lapse)) * risen)
    return np.stack(np.broadcast_arrays(*parts, *ends_of), axis=-1)


def _likelihood(p: Floats, noticed: Floats, asked: Floats) -> Floats:
    value: Floats = (noticed * np.log(p) + (asked - noticed) * np.log1p(-p)).sum(1)
    return value
