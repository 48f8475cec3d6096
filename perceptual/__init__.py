"""perceptual: how different two images look to a person.

The names below are imported when they are first used, so that `import perceptual` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perceptual.version import __version__

if TYPE_CHECKING:
    from perceptual.distance.lpips import LPIPS
    from perceptual.evaluation.methods import create_metric, list_metrics
    from perceptual.features.backbone import Backbone
    from perceptual.metrics import PerceptualDistance
    from perceptual.training.module import PerceptualRanker

__all__ = [
    "LPIPS",
    "Backbone",
    "PerceptualDistance",
    "PerceptualRanker",
    "__version__",
    "create_metric",
    "list_metrics",
]

_HOMES = {
    "Backbone": "features.backbone",
    "LPIPS": "distance.lpips",
    "PerceptualDistance": "metrics",
    "PerceptualRanker": "training.module",
    "create_metric": "evaluation.methods",
    "list_metrics": "evaluation.methods",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perceptual' has no attribute {name!r}")
    return getattr(import_module(f"perceptual.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
