"""Just noticeable differences (JND): does a distance rank first the pairs that people call the same?

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
https://arxiv.org/abs/1801.03924, shown there as "JND mAP". The area is that of PASCAL VOC since 2010 (all
points of the precision envelope).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceptual.metrics.columns import TwoColumns


def jnd_average_precision(distance: Tensor, same: Tensor) -> Tensor:
    """Average precision of "small distance" as a sign of "looks the same", with soft labels.

    Pairs enter the curve by ascending distance, equal distances together, so that the order of the items
    never matters and a constant distance scores the base rate, mean(same).

    Args:
        distance: (N,) distance of each pair; infinite is allowed, NaN is not.
        same: (N,) fraction of people who said "same", in [0, 1].

    Returns:
        Float64 scalar in [0, 1]; NaN, as undefined, where there is no pair that anybody called the same.

    Raises:
        ValueError: shapes differ or are not (N,), a distance is NaN, or `same` is outside [0, 1].
    """
    _check(distance, same)
    columns = [column.detach().cpu().double().numpy() for column in (distance, same)]
    area = weighted_average_precision(columns[0][None], columns[1], np.ones((1, len(same))))
    return torch.as_tensor(area[0], device=distance.device)


def weighted_average_precision(
    distances: NDArray[np.floating], same: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`jnd_average_precision` (B,) of distances (1, N) with pairs counted by their weights (B, N)."""
    if not len(same):
        return np.full(len(weights), np.nan)
    order = np.lexsort((same, distances[0]))  # so that ties add up in one order, to the last bit
    ranked = distances[0][order]  # infinite where PSNR is of equal images, so no difference is taken
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal distances enter together
    items = weights[:, order].cumsum(1)[:, ends]
    tp = (weights[:, order] * same[order]).cumsum(1)[:, ends]
    precision = np.divide(tp, items, out=np.zeros_like(tp), where=items > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area, called_same = (np.diff(tp, axis=1, prepend=0) * envelope).sum(1), tp[:, -1]
    score: NDArray[np.float64] = np.divide(
        area, called_same, out=np.full_like(area, np.nan), where=called_same > 0
    )
    return score


def _check(distance: Tensor, same: Tensor) -> None:
    if distance.ndim != 1 or distance.shape != same.shape:
        shapes = f"{tuple(distance.shape)} and {tuple(same.shape)}"
        raise ValueError(f"distance and same must have one shape (N,), got {shapes}")
    if (missing := int(distance.isnan().sum())) > 0:
        raise ValueError(f"distance must not be NaN, but {missing} of {len(distance)} items are")
    if (outside := int((~((same >= 0) & (same <= 1))).sum())) > 0:
        raise ValueError(f"same must lie in [0, 1], but {outside} of {len(same)} do not")


class JNDAveragePrecision(TwoColumns):
    """JND average precision over all pairs seen: see `jnd_average_precision`.

    `update(distance, same)`, (N,) each; `compute()` gives a float64 scalar (float32 on mps). Pairs are kept,
    16 bytes each, because the curve has to sort them.

    Examples:
        >>> import torch
        >>> metric = JNDAveragePrecision()
        >>> metric.update(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 1.0, 0.0]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)

    Args:
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def update(self, distance: Tensor, same: Tensor) -> None:
        """Add N pairs: distances and fractions of "same", (N,) each."""
        _check(distance, same)
        self.keep(distance, same)

    def compute(self) -> Tensor:
        """Average precision over the pairs of all processes."""
        return jnd_average_precision(*self.kept()).to(self.device, self.float_type)
