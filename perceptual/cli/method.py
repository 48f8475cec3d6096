"""Distance that a command measures, by its option `--method`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perceptual.cli.batches import Pair
from perceptual.distance.level import Outside
from perceptual.distance.lpips import LPIPS
from perceptual.distance.noticed import Noticed
from perceptual.evaluation import methods
from perceptual.names import Method


class Chosen(NamedTuple):
    """Distance with its name in results and the device it computes on.

    `ranking` is the ranking network of a checkpoint, on the CPU.
    """

    name: str
    distance: nn.Module
    device: str
    ranking: nn.Module | None

    @torch.inference_mode()
    def measure(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> list[float]:
        """Measure the distance of each pair of uint8 images (N, 3, H, W), within masks (N, 1, H, W) uint8."""
        said = {} if mask is None else {"mask": self.load(mask)}
        values: list[float] = self.distance(self.load(x), self.load(y), **said).tolist()
        return values

    @property
    def curve(self) -> Noticed | None:
        """How many people notice its distances, where that is known."""
        return self.distance.curve if isinstance(self.distance, LPIPS) else None

    @torch.inference_mode()
    def levels(self, pair: Pair) -> tuple[list[float], Tensor] | None:
        """What each level adds to the distance, and where, (L, H, W) on the CPU; None if it has no levels."""
        if not isinstance(self.distance, LPIPS) or self.distance.form != "per_position":
            return None
        said = self._loaded(pair)
        shares: list[float] = self.distance.per_level(*said)[0].tolist()
        return shares, self.distance.per_level(*said, spatial=True)[0].cpu()

    @torch.inference_mode()
    def map_of(self, pair: Pair) -> Tensor | None:
        """Where two images differ, (H, W) on the CPU; None if the distance has no map."""
        if found := self.levels(pair):
            return found[1].sum(0)
        at = getattr(self.distance, "at", None)
        return at(*self._loaded(pair)[:2])[0].mean(0).cpu() if at else None

    def _loaded(self, pair: Pair) -> list[Tensor]:
        return [self.load(part[None]) for part in pair if part is not None]

    def load(self, images: Tensor) -> Tensor:
        """Convert uint8 images to what distances take: float in [0, 1], on the device."""
        return images.to(self.device).float().div_(255)


def choose(said: str | None, outside: Outside = "see", memory: float | None = None) -> Chosen:
    """Load the distance of a name; without one, LPIPS on AlexNet.

    Raises:
        ValueError: no such method or calibration, or one without a network, whose mean colour fills what is
            outside of masks, and whose features take memory.
        FileNotFoundError: a file or weights that do not exist.
    """
    method = Method.parse(said or "alexnet")
    distance, ranking = methods.load(method)
    methods.seeing(outside, distance, str(method))
    if isinstance(distance, LPIPS):
        distance.memory = memory or "auto"
    elif memory:
        raise ValueError(f"memory is what features of a network may take, and {method} has none")
    device = methods.device()
    return Chosen(str(method), distance.to(device), device, ranking)
