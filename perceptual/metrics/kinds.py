"""What judgments of each kind are scored by."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from perceptual.metrics.ceiling import Ceiling, ceiling, jnd_ceiling
from perceptual.metrics.jnd import JNDAveragePrecision, weighted_average_precision
from perceptual.metrics.odd_one_out import OddOneOutScore, weighted_odd_one_out_score
from perceptual.metrics.opinion import OpinionCorrelation, weighted_srcc
from perceptual.metrics.two_afc import (
    MajorityAccuracy,
    TwoAFCScore,
    ceiling_score,
    human_score,
    two_people_agreement,
    weighted_two_afc_score,
)

Weighted = Callable[[NDArray[np.floating], NDArray[np.floating], NDArray[np.float64]], NDArray[np.float64]]
ESTIMATED = "ceiling, estimated"


class OfPeople(NamedTuple):
    """How far people agree, or what that leaves to reach."""

    score: Callable[..., Any]
    """Of answers (N,) and, if `votes`, of the numbers of people asked (N,)."""
    votes: bool


class Score(NamedTuple):
    """How distances are scored on judgments of one kind."""

    metric: Callable[[], Metric]
    """Its `update` takes the distances of an item's pairs, (N,) each, and the answers, (N,) or (N, K)."""
    heading: str
    """Of its column in tables, × 100."""
    weighted: Weighted
    """The score (B,) of distances (K, N) on answers (N,), with items counted by their weights (B, N)."""
    counting: Callable[[NDArray[np.floating]], NDArray[np.bool_]] = lambda answer: np.ones(len(answer), bool)
    """(N,) whether an item can make the score, by its answer."""
    others: Mapping[str, Callable[[], Metric]] = {}
    """Further metrics that results have, by their name there."""
    people: Mapping[str, OfPeople] = {}
    """Rows about the people, by their name in tables."""
    ceiling: Callable[[Tensor, Tensor, float], Ceiling] | None = None
    """The best score that any distance can have, by answers, votes and slack: see `ceiling`."""


CHOICES = {
    "a person, own vote included": OfPeople(human_score, votes=False),
    "two people, unbiased": OfPeople(two_people_agreement, votes=True),
    "ceiling, raw": OfPeople(ceiling_score, votes=False),
    ESTIMATED: OfPeople(lambda *columns: ceiling(*columns).estimate, votes=True),
}
SCORES = {
    "2afc": Score(
        TwoAFCScore,
        "2AFC in %",
        weighted_two_afc_score,
        others={"majority": MajorityAccuracy},
        people=CHOICES,
        ceiling=ceiling,
    ),
    "jnd": Score(
        JNDAveragePrecision,
        "JND mAP in %",
        weighted_average_precision,
        lambda same: same > 0,
        people={ESTIMATED: OfPeople(jnd_ceiling, votes=True)},
    ),
    "opinion": Score(
        OpinionCorrelation,
        "SRCC × 100",
        weighted_srcc,
        others={
            "krcc": partial(OpinionCorrelation, "krcc"),
            "plcc": partial(OpinionCorrelation, "plcc"),
        },
    ),
    "odd-one-out": Score(
        OddOneOutScore,
        "odd one out in %",
        weighted_odd_one_out_score,
        people=CHOICES,
        ceiling=ceiling,
    ),
}
"""By the name of the kind, see `perceptual.data.kinds`."""
