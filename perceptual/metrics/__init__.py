"""Scores of a distance against people: pure functions, and torchmetrics classes above them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perceptual.metrics.jnd import JNDAveragePrecision, jnd_average_precision
from perceptual.metrics.opinion import OpinionCorrelations, opinion_correlations
from perceptual.metrics.per_subset import PerSubset
from perceptual.metrics.two_afc import (
    MajorityAccuracy,
    TwoAFCScore,
    ceiling_score,
    human_score,
    majority_accuracy,
    two_afc_agreement,
    two_afc_score,
    two_people_agreement,
)

if TYPE_CHECKING:
    from perceptual.metrics.distance import PerceptualDistance

__all__ = [
    "JNDAveragePrecision",
    "MajorityAccuracy",
    "OpinionCorrelations",
    "PerSubset",
    "PerceptualDistance",
    "TwoAFCScore",
    "ceiling_score",
    "human_score",
    "jnd_average_precision",
    "majority_accuracy",
    "opinion_correlations",
    "two_afc_agreement",
    "two_afc_score",
    "two_people_agreement",
]


def __getattr__(name: str) -> Any:
    if name == "PerceptualDistance":  # imported when asked for: it needs the backbones, scores do not
        return import_module("perceptual.metrics.distance").PerceptualDistance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
