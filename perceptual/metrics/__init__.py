"""Scores of a distance against people: pure functions, and torchmetrics classes above them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perceptual.metrics.ceiling import Ceiling, ceiling, jnd_ceiling
from perceptual.metrics.jnd import JNDAveragePrecision, jnd_average_precision
from perceptual.metrics.kinds import SCORES
from perceptual.metrics.odd_one_out import OddOneOutScore, odd_one_out_agreement
from perceptual.metrics.opinion import OpinionCorrelation, OpinionCorrelations, opinion_correlations
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
    from perceptual.metrics.diversity import PerceptualDiversity

__all__ = [
    "SCORES",
    "Ceiling",
    "JNDAveragePrecision",
    "MajorityAccuracy",
    "OddOneOutScore",
    "OpinionCorrelation",
    "OpinionCorrelations",
    "PerSubset",
    "PerceptualDistance",
    "PerceptualDiversity",
    "TwoAFCScore",
    "ceiling",
    "ceiling_score",
    "human_score",
    "jnd_average_precision",
    "jnd_ceiling",
    "majority_accuracy",
    "odd_one_out_agreement",
    "opinion_correlations",
    "two_afc_agreement",
    "two_afc_score",
    "two_people_agreement",
]


# imported when they are first used: they need the backbones, scores do not
_HOMES = {"PerceptualDistance": "distance", "PerceptualDiversity": "diversity"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"perceptual.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
