"""Which distance a command measures, from its options `--method`, or `--backbone` and `--lin`."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perceptual.distance.calibration import versions
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation import methods
from perceptual.features.networks import TORCHVISION, check_name

PUBLISHED = "v0.1"


class Chosen(NamedTuple):
    """A distance under the name that results give it, on the device it computes on.

    `ranking` is the ranking network of a checkpoint, on the CPU.
    """

    name: str
    distance: nn.Module
    device: str
    ranking: nn.Module | None

    @torch.inference_mode()
    def measure(self, x: Tensor, y: Tensor) -> list[float]:
        """Distance of each pair of uint8 images (N, 3, H, W)."""
        values: list[float] = self.distance(self.load(x), self.load(y)).tolist()
        return values

    def load(self, images: Tensor) -> Tensor:
        """uint8 images as the distances take them: float in [0, 1], on the device."""
        return images.to(self.device).float().div_(255)


def choose(method: str | None, backbone: str | None, lin: str | None) -> Chosen:
    """The distance of the options, `alexnet-v0.1` without any.

    Raises:
        ValueError: options that exclude each other; no such method, backbone or calibration.
        FileNotFoundError: a file or weights that cannot be found.
    """
    if method and (backbone or lin):
        raise ValueError(
            "--method names a whole distance; leave out --backbone and --lin, or give only these"
        )
    if method:
        name, (distance, ranking) = method, methods.load(method)
    else:
        name, distance, ranking = *_lpips(backbone or "alexnet", lin), None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Chosen(name, distance.to(device), device, ranking)


def _lpips(backbone: str, lin: str | None) -> tuple[str, LPIPS]:
    if methods.is_path(backbone):
        raise ValueError(
            f"--backbone takes the name of a network, got a path; for a whole distance: --method {backbone}"
        )
    if backbone not in TORCHVISION:
        check_name(backbone)
    if lin == "none":
        return backbone, LPIPS(backbone, lin=None)
    if lin is None and PUBLISHED not in versions(backbone):
        raise ValueError(
            f"no calibration was published for {backbone!r}; --lin none gives the uncalibrated distance, "
            "--lin FILE one with your own"
        )
    name = (
        f"{backbone} with {Path(lin).name}"
        if lin and Path(lin).exists()
        else f"{backbone}-{lin or PUBLISHED}"
    )
    return name, LPIPS(backbone, lin=lin or PUBLISHED)
