"""A distance between images as a metric of torchmetrics: its mean over all pairs of images seen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceptual.distance.lpips import LPIPS

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda distance: distance,
}
NETS = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}


class PerceptualDistance(Metric):
    """Distance of image pairs, as a metric, and as a loss.

    `update(x, y)` takes pairs of images (N, 3, H, W) as the distance does, in [0, 1] for those of ours;
    `compute()` gives the reduction over all pairs of all processes. `forward(x, y)` also returns that of its
    own pairs, through which gradients flow to the images: as a loss it keeps two numbers, however long it is
    used.

    The distance moves to devices with the metric, and takes its dtype from `set_dtype` or a model around it,
    but is hidden from `parameters()` and `state_dict()`: no optimiser trains it, and no checkpoint of the
    model holds it.

    Args:
        distance: (x, y) → (N,), larger = more different.
        reduction: `mean` or `sum` of the pairs (scalar), or `none`: (N,) distances of all pairs, which are
            kept for that.

    Raises:
        ValueError: unknown reduction; (on compute) no pairs to take the mean of.
    """

    higher_is_better = False
    is_differentiable = True
    full_state_update = False

    total: Tensor
    lost: Tensor
    pairs: Tensor
    distances: list[Tensor]

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.reduction = reduction
        self._hidden = (distance,)  # nn.Module does not look into tuples
        if reduction == "none":
            self.add_state("distances", [], dist_reduce_fx="cat")
        else:
            self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
            self.add_state("lost", torch.tensor(0.0), dist_reduce_fx="sum")
            self.add_state("pairs", torch.tensor(0), dist_reduce_fx="sum")

    @classmethod
    def lpips(
        cls, net_type: str = "alex", reduction: str = "mean", normalize: bool = False
    ) -> "PerceptualDistance":
        """In place of torchmetrics' `LearnedPerceptualImagePatchSimilarity`: same arguments, range, numbers.

        Args:
            net_type: `alex`, `squeeze` or `vgg`, with the published calibration v0.1.
            reduction: as in the class.
            normalize: images are in [0, 1] if True, else in [-1, 1].

        Raises:
            ValueError: unknown network or reduction.
            FileNotFoundError: weights that cannot be found.
        """
        if net_type not in NETS:
            raise ValueError(f"net_type must be one of {', '.join(NETS)}, got {net_type!r}")
        return cls(LPIPS(NETS[net_type], value_range=(0, 1) if normalize else (-1, 1)), reduction)

    @property
    def distance(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The distance."""
        return self._hidden[0]

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add N pairs of images, (N, 3, H, W) each."""
        with torch.no_grad():
            self._add(self.distance(x, y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add N pairs of images and return the reduction over these alone, with its gradient."""
        distance = self.distance(x, y)
        self._computed = None
        self._update_count += 1
        self._add(distance.detach())
        value = REDUCTIONS[self.reduction](distance)
        self._forward_cache = value.detach()  # type: ignore[assignment]  # declared as None
        return value

    def compute(self) -> Tensor:
        """Mean, sum, or all distances."""
        if self.reduction == "none":
            distances = self.distances
            return torch.cat(distances) if isinstance(distances, list) else distances
        if not self.pairs:
            raise ValueError("no pairs of images were given")
        total = self.total - self.lost
        return total / self.pairs if self.reduction == "mean" else total

    def set_dtype(self, dst_type: str | torch.dtype) -> "PerceptualDistance":
        """Convert the distance; what is summed stays float32, half precision would overflow."""
        if isinstance(self.distance, nn.Module):
            self.distance.type(dst_type)
        return self

    def _add(self, distance: Tensor) -> None:
        if self.reduction == "none":
            self.distances.append(distance)
            return
        # Kahan: `lost` is what rounding added, so that the millionth pair counts as much as the first
        addend = distance.float().sum() - self.lost
        total = self.total + addend
        self.lost = torch.where(total.isfinite(), total - self.total - addend, 0)
        self.total = total
        self.pairs = self.pairs + len(distance)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        if isinstance(self.distance, nn.Module):
            self.distance._apply(fn)
        return super()._apply(fn, *args, **kwargs)
