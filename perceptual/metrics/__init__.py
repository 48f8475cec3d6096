"""Scores of a distance against people: pure functions, and torchmetrics classes above them."""

from perceptual.metrics.distance import PerceptualDistance
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
