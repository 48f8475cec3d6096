"""What judgments of each kind are scored by."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchmetrics import Metric

from perceptual.metrics.jnd import JNDAveragePrecision, weighted_average_precision
from perceptual.metrics.opinion import OpinionCorrelation, weighted_srcc
from perceptual.metrics.two_afc import TwoAFCScore, weighted_two_afc_score

Weighted = Callable[[NDArray[np.floating], NDArray[np.floating], NDArray[np.float64]], NDArray[np.float64]]


class Score(NamedTuple):
    """How distances are scored on judgments of one kind."""

    metric: Callable[[], Metric]
    """Its `update` takes the distances of an item's pairs, (N,) each, and the answers (N,)."""
    heading: str
    """Of its column in tables, × 100."""
    weighted: Weighted
    """The score (B,) of distances (K, N) on answers (N,), with items counted by their weights (B, N)."""
    counting: Callable[[NDArray[np.floating]], NDArray[np.bool_]] = lambda answer: np.ones(len(answer), bool)
    """(N,) whether an item can make the score, by its answer."""


SCORES = {
    "2afc": Score(TwoAFCScore, "2AFC in %", weighted_two_afc_score),
    "jnd": Score(JNDAveragePrecision, "JND mAP in %", weighted_average_precision, lambda same: same > 0),
    "opinion": Score(OpinionCorrelation, "SRCC × 100", weighted_srcc),
}
"""By the name of the kind, see `perceptual.data.kinds`."""
