"""Two-alternative forced choice (2AFC): does a distance prefer the patch that people prefer?

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
https://arxiv.org/abs/1801.03924. A number here is a fraction in [0, 1]; the paper prints percent.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from perceptual.metrics.votes import counted, shares


def two_afc_agreement(d0: Tensor, d1: Tensor, judgment: Tensor) -> Tensor:
    """Agreement of a distance with people on each item: (d0<d1)(1−j) + (d1<d0)j + ½[d0=d1].

    Args:
        d0: (N,) distance from the reference to p0; infinite is allowed, NaN is not.
        d1: (N,) distance from the reference to p1.
        judgment: (N,) fraction of people who preferred p1, in [0, 1].

    Returns:
        (N,) float64 in [0, 1], on the CPU, as all scores here. A tie counts ½, whatever people said.

    Raises:
        ValueError: shapes differ or are not (N,), a distance is NaN, or a judgment is outside [0, 1].
    """
    # Apple's GPUs have no float64, and the checks wait for a device anyway
    d0, d1, judgment = d0.cpu(), d1.cpu(), judgment.cpu()
    _check(d0, d1, judgment)
    j = judgment.double()
    return torch.where(d0 < d1, 1 - j, torch.where(d1 < d0, j, 0.5))


def two_afc_score(d0: Tensor, d1: Tensor, judgment: Tensor) -> Tensor:
    """2AFC score: the mean of `two_afc_agreement` over items (scalar, NaN without items)."""
    return two_afc_agreement(d0, d1, judgment).mean()


def weighted_two_afc_score(
    distances: NDArray[np.floating], judgment: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`two_afc_score` (B,) of distances (2, N) with items counted by their weights (B, N), NaN without."""
    agreement = two_afc_agreement(*map(torch.from_numpy, (*distances, judgment))).numpy()
    return weighted_mean(agreement[None], judgment, weights)


def weighted_mean(
    values: NDArray[np.floating], _: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean (B,) of values (1, N) with items counted by their weights (B, N), NaN without any."""
    total, items = weights @ values[0], weights.sum(1)
    mean: NDArray[np.float64] = np.divide(total, items, out=np.full_like(items, np.nan), where=items > 0)
    return mean


def majority_accuracy(d0: Tensor, d1: Tensor, judgment: Tensor) -> Tensor:
    """Fraction of items on which the distance sides with most people (scalar); a tied distance counts ½.

    Items with a judgment of exactly ½ are left out: they have no majority, and nothing a distance says
    about them is right or wrong. NaN if no item is left. Arguments as in `two_afc_agreement`.
    """
    return _agreement_with_majority(d0, d1, judgment).mean()


def human_score(judgment: Tensor) -> Tensor:
    """The paper's "human" row, mean of j² + (1−j)²: a person drawn from the votes, scored by those votes.

    The person's own vote is among the votes, so with few votes it flatters; see `two_people_agreement`.
    Of fractions (N, K) of people who chose each of K images, the mean sum of their squares.
    """
    return (shares(judgment) ** 2).sum(1).mean()


def ceiling_score(judgment: Tensor) -> Tensor:
    """The raw ceiling, mean of max(j, 1−j) (scalar): the best 2AFC score of a distance on these very votes.

    Few votes inflate it; `perceptual.metrics.ceiling` estimates what a distance can reach with other people.
    Of fractions (N, K) of people who chose each of K images, the mean of the largest.
    """
    return shares(judgment).amax(1).mean()


def two_people_agreement(judgment: Tensor, votes: Tensor) -> Tensor:
    """Unbiased probability that two different people agree on an item, averaged over items (scalar).

    With k of n votes for p1 it is [k(k−1) + (n−k)(n−k−1)] / [n(n−1)]: pairs of voters who agree, over
    all pairs. Items with fewer than two votes say nothing about it and are left out; NaN if none is left.

    Args:
        judgment: (N,) fraction of people who preferred p1, or (N, K) who chose each, in [0, 1].
        votes: (N,) number of people asked.

    Raises:
        ValueError: judgment · votes is not a whole number of people for some item.
    """
    asked = votes >= 2
    k, n = counted(judgment[asked], votes[asked])
    return ((k * (k - 1)).sum(1) / (n * (n - 1))).mean()


def _agreement_with_majority(d0: Tensor, d1: Tensor, judgment: Tensor) -> Tensor:
    _check(d0, d1, judgment)
    decided = judgment != 0.5
    return two_afc_agreement(d0[decided], d1[decided], judgment[decided].round())


def _check(d0: Tensor, d1: Tensor, judgment: Tensor) -> None:
    if d0.ndim != 1 or not d0.shape == d1.shape == judgment.shape:
        shapes = f"{tuple(d0.shape)}, {tuple(d1.shape)} and {tuple(judgment.shape)}"
        raise ValueError(f"d0, d1 and judgment must have one shape (N,), got {shapes}")
    if (missing := int((d0.isnan() | d1.isnan()).sum())) > 0:
        raise ValueError(f"d0 and d1 must not be NaN, but {missing} of {len(d0)} items have a NaN distance")
    if (outside := int((~((judgment >= 0) & (judgment <= 1))).sum())) > 0:
        raise ValueError(f"judgment must lie in [0, 1], but {outside} of {len(judgment)} do not")


class MeanAgreement(Metric):
    """Mean agreement over all items seen, of all processes: a float64 scalar, NaN without items.

    It is float32 on mps, which has nothing wider. A subclass says what agreement is, in `update`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    agreement: Tensor
    items: Tensor

    # Agreement is summed as a whole number of these units (an item is rounded by 7e-12 at most). Integers
    # add up to the same sum in any order, over any number of processes, on any device; room for 1e8 items.
    _UNITS = 2**36

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("agreement", "items"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def add(self, agreement: Tensor) -> None:
        """Add the agreement of N items, (N,) in [0, 1]."""
        # not in place: in inference mode a score may be made or reset, and then go on outside
        self.agreement = self.agreement + self._in_units(agreement)
        self.items = self.items + len(agreement)

    def _in_units(self, agreement: Tensor) -> Tensor:
        return (agreement * self._UNITS).round().long().sum()

    def compute(self) -> Tensor:
        """Mean agreement over the items of all processes."""
        return self._mean(self.agreement, self.items)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the value, or those of several steps, as every metric of torchmetrics does."""
        return self._plot(val, ax)

    def _mean(self, agreement: Tensor, items: Tensor) -> Tensor:
        mean = agreement.cpu().double() / self._UNITS / items.cpu()
        return mean.to(self.device, torch.float32 if self.device.type == "mps" else torch.float64)


class TwoAFCScore(MeanAgreement):
    """2AFC score over all items seen, soft judgments, ties ½: see `two_afc_score`.

    `update(d0, d1, judgment)` as in `two_afc_agreement`; `compute()` gives a float64 scalar (float32 on
    mps), NaN without items.

    Examples:
        >>> import torch
        >>> metric = TwoAFCScore()
        >>> metric.update(torch.tensor([0.2, 0.5]), torch.tensor([0.4, 0.1]), torch.tensor([0.0, 0.75]))
        >>> metric.compute()
        tensor(0.8750, dtype=torch.float64)

    Args:
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.
    """

    majority_agreement: Tensor
    majority_items: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("majority_agreement", "majority_items"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, d0: Tensor, d1: Tensor, judgment: Tensor) -> None:
        """Add N items: distances and judgments, (N,) each."""
        # once for both
        d0, d1, judgment = d0.cpu(), d1.cpu(), judgment.cpu()
        self.add(two_afc_agreement(d0, d1, judgment))
        agreement = _agreement_with_majority(d0, d1, judgment)
        self.majority_agreement = self.majority_agreement + self._in_units(agreement)
        self.majority_items = self.majority_items + len(agreement)


class MajorityAccuracy(TwoAFCScore):
    """Accuracy against what most people chose, items without a majority left out: see `majority_accuracy`.

    It has all of `TwoAFCScore`'s state, so that the two may share it in a `MetricCollection`.
    """

    def compute(self) -> Tensor:
        """Accuracy over the decided items of all processes."""
        return self._mean(self.majority_agreement, self.majority_items)
