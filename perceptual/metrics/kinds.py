"""What judgments of each kind are scored by."""

from collections.abc import Callable
from typing import NamedTuple

from torchmetrics import Metric

from perceptual.metrics.jnd import JNDAveragePrecision
from perceptual.metrics.opinion import OpinionCorrelation
from perceptual.metrics.two_afc import TwoAFCScore


class Score(NamedTuple):
    """How distances are scored on judgments of one kind."""

    metric: Callable[[], Metric]
    """Its `update` takes the distances of an item's pairs, (N,) each, and the answers (N,)."""
    heading: str
    """Of its column in tables, × 100."""


SCORES = {
    "2afc": Score(TwoAFCScore, "2AFC in %"),
    "jnd": Score(JNDAveragePrecision, "JND mAP in %"),
    "opinion": Score(OpinionCorrelation, "SRCC × 100"),
}
"""By the name of the kind, see `perceptual.data.kinds`."""
