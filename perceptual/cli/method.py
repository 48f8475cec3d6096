"""Distance that a command measures, by its option `--method`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perceptual.distance.level import Outside
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

    def load(self, images: Tensor) -> Tensor:
        """Convert uint8 images to what distances take: float in [0, 1], on the device."""
        return images.to(self.device).float().div_(255)


def choose(said: str | None, outside: Outside = "see") -> Chosen:
    """Load the distance of a name; without one, LPIPS on AlexNet.

    Raises:
        ValueError: no such method or calibration, or one that cannot fill what is outside of masks.
        FileNotFoundError: a file or weights that do not exist.
    """
    method = Method.parse(said or "alexnet")
    distance, ranking = methods.load(method)
    methods.seeing(outside, distance, str(method))
    device = methods.device()
    return Chosen(str(method), distance.to(device), device, ranking)
