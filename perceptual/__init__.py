"""perceptual: how different two images look to a person.

The names below are imported when they are first used, so that `import perceptual` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual.distance.lpips import LPIPS
    from perceptual.features.backbone import Backbone
    from perceptual.training.module import PerceptualRanker

__version__ = "0.2.0.dev0"
__all__ = ["LPIPS", "Backbone", "PerceptualRanker", "__version__"]

_HOMES = {
    "Backbone": "features.backbone",
    "LPIPS": "distance.lpips",
    "PerceptualRanker": "training.module",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perceptual' has no attribute {name!r}")
    return getattr(import_module(f"perceptual.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
