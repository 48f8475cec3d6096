"""Conditions that a recipe was not chosen on: the same judged images, photographed or rendered otherwise.

People judged the images as they are; a good distance keeps most of its score where all three images of a
triplet are changed alike. A recipe chosen under one condition often loses in the next: score it on images
never seen *and* under conditions never seen.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import gaussian_blur, rotate

from perceptual.data.images import read_batch
from perceptual.data.items.distinct import DistinctPairs, ImagePair
from perceptual.data.items.triplets import TripletDataset
from perceptual.data.loading import Batches
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.scoring import measure
from perceptual.metrics import two_afc_score

FEW = 256  # images whose features are held at once
BATCH = 100  # pairs

Condition = Callable[[Tensor], Tensor]


def _tinted(red: float, blue: float) -> Condition:
    return lambda images: (images * images.new_tensor([red, 1, blue]).view(1, 3, 1, 1)).clamp(max=1)


def _sized(side: int) -> Condition:
    return lambda images: F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _lit(axis: int) -> Condition:
    """Light from the side where an axis, −1 or −2, begins: 1.5 times as much there, 0.35 opposite."""

    def change(images: Tensor) -> Tensor:
        gain = torch.linspace(1.5, 0.35, images.shape[axis], device=images.device)
        return (images * (gain if axis == -1 else gain.unsqueeze(1))).clamp(max=1)

    return change


def _zoomed(images: Tensor) -> Tensor:
    side = images.shape[-1]
    edge = round(side / 10)
    inner = images[..., edge : side - edge, edge : side - edge]
    return F.interpolate(inner, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 0.04 * noise.to(images)).clamp(0, 1)


CONDITIONS: dict[str, Condition] = {
    "as judged": lambda images: images,
    "gamma 1.8": lambda images: images**1.8,
    "gamma 0.55": lambda images: images**0.55,
    "exposure × 1.6": lambda images: (1.6 * images).clamp(max=1),
    "exposure × 0.5": lambda images: 0.5 * images,
    "warm": _tinted(1.35, 0.65),
    "cold": _tinted(0.65, 1.35),
    "lit from the left": _lit(-1),
    "lit from above": _lit(-2),
    "half contrast": lambda images: 0.5 * images + 0.25,
    "blur": lambda images: gaussian_blur(images, [9, 9], [1.2, 1.2]),
    "noise": _noisy,
    "rotated 12°": lambda images: rotate(images, 12, InterpolationMode.BILINEAR),
    "zoomed 25 %": _zoomed,
    "48 pixels": _sized(48),
    "128 pixels": _sized(128),
}


def score_under(
    distances: Mapping[str, nn.Module],
    judged: TripletDataset,
    conditions: Mapping[str, Condition] = CONDITIONS,
) -> dict[str, dict[str, float]]:
    """2AFC score (micro) of distances on triplets under each condition, then `mean`, that over conditions.

    Args:
        distances: by name, (x, y) → (N,), of images (N, 3, H, W) in [0, 1].
        judged: triplets.
        conditions: by name, images (N, 3, S, S) in [0, 1] → the same images otherwise.

    Returns:
        by name of the distance, then of the condition; fractions in [0, 1].

    Raises:
        ValueError: a distance cannot be computed on some images.
    """
    pairs, judgment = DistinctPairs(judged), torch.from_numpy(judged.table.judgment)
    number, which = pairs.pairs.unique(return_inverse=True)
    images = read_batch(judged.images, number)
    scores: dict[str, dict[str, float]] = {name: {} for name in distances}
    for condition, change in conditions.items():
        changed = _Changed(change(images), which)
        for name, distance in distances.items():
            d0, d1 = map(torch.from_numpy, pairs.to_items(_apart(name, distance, changed, condition)))
            scores[name][condition] = two_afc_score(d0, d1, judgment).item()
    return {name: {**by, "mean": sum(by.values()) / len(by)} for name, by in scores.items()}


def _apart(name: str, distance: nn.Module, changed: "_Changed", condition: str) -> np.ndarray:
    """Distance (P,) of each pair; where few images are in many pairs, each is in one backbone pass."""
    if isinstance(distance, LPIPS) and len(changed.images) <= FEW:
        device = distance.lin[0].device
        first, second = changed.pairs.T.to(device)
        with torch.no_grad():
            return distance.among(changed.images.to(device), first, second).cpu().numpy()
    batches: Batches[ImagePair] = Batches(changed, BATCH, shared=False)
    found = measure({name: distance}, batches)[name]
    if found.error:
        raise ValueError(f"{name} under the condition {condition!r}: {found.error}")
    return found.columns[0]


class _Changed(torch.utils.data.Dataset[object]):
    """Pairs of images that were changed, as batches of `ImagePair`."""

    def __init__(self, images: Tensor, pairs: Tensor) -> None:
        self.images, self.pairs = images, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, rows: list[int]) -> ImagePair:
        first, second = self.pairs[torch.as_tensor(rows)].T
        return ImagePair(self.images[first], self.images[second])
