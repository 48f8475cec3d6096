"""A distance between images as a metric of torchmetrics: its mean over all pairs of images seen."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceptual.distance.lpips import LPIPS

Reduction = Literal["mean", "sum", "none"]
Weight = Literal["image", "area"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda distance: distance,
}
NETS = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}


class OfDistance(Metric):
    """A metric that holds a distance, which moves with it but is not part of it.

    The distance moves to devices with the metric, and takes its dtype from `set_dtype` or a model around it,
    but is hidden from `parameters()` and `state_dict()`: no optimiser trains it, and no checkpoint of the
    model holds it.
    """

    full_state_update = False
    plot_lower_bound = 0.0

    def __init__(self, distance: Callable[..., Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hidden = (distance,)  # nn.Module does not look into tuples
        # A MetricCollection takes metrics with equal states for one and computes only the first. The distance
        # is no state, and NaN is equal to nothing.
        self.add_state("apart", torch.tensor(torch.nan), dist_reduce_fx="max")

    @property
    def distance(self) -> Callable[..., Tensor]:
        """The distance."""
        return self._hidden[0]

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the value, or those of several steps, as every metric of torchmetrics does."""
        return self._plot(val, ax)

    def set_dtype(self, dst_type: str | torch.dtype) -> "OfDistance":
        """Convert the distance; what is summed keeps its precision, half precision would overflow."""
        if isinstance(self.distance, nn.Module):
            self.distance.type(dst_type)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        if isinstance(self.distance, nn.Module):
            self.distance._apply(fn)
        return super()._apply(fn, *args, **kwargs)


class PerceptualDistance(OfDistance):
    """Distance of image pairs, as a metric, and as a loss.

    `update(x, y)` takes pairs of images (N, 3, H, W) as the distance does, in [0, 1] for those of ours;
    `compute()` gives the reduction over all pairs of all processes. `forward(x, y)` also returns that of its
    own pairs, through which gradients flow to the images: as a loss it keeps few numbers, however long it is
    used. With `mask`, (N, 1, H, W) in [0, 1], only what it covers counts, if the distance takes masks.

    Examples:
        >>> import torch
        >>> metric = PerceptualDistance(lambda x, y: (x - y).square().mean((1, 2, 3)))
        >>> metric.update(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
        >>> metric.compute()
        tensor(1.)

    Args:
        distance: (x, y) → (N,), larger = more different; masks are passed as `mask`.
        reduction: `mean` or `sum` of the pairs (scalar), or `none`: (N,) distances of all pairs, which are
            kept for that.
        weight: what a pair counts in the mean: `image`, one; or `area`, the pixels that its mask covers.
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.

    Raises:
        ValueError: unknown reduction or weight, `area` without a mean; (on compute) no pairs of images.
    """

    higher_is_better = False
    is_differentiable = True

    total: Tensor
    lost: Tensor
    distances: list[Tensor]

    def __init__(
        self,
        distance: Callable[..., Tensor],
        reduction: Reduction = "mean",
        *,
        weight: Weight = "image",
        **kwargs: Any,
    ) -> None:
        super().__init__(distance, **kwargs)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if weight not in WEIGHTS:
            raise ValueError(f"weight must be one of {', '.join(WEIGHTS)}, got {weight!r}")
        if weight == "area" and reduction != "mean":
            raise ValueError(f"weight='area' is of means: reduction must be 'mean', got {reduction!r}")
        self.reduction, self.weight = reduction, weight
        if reduction == "none":
            self.add_state("distances", [], dist_reduce_fx="cat")
        else:
            # of distances, and of what they count
            for state in ("total", "lost"):
                self.add_state(state, torch.zeros(2, dtype=torch.float32), dist_reduce_fx="sum")

    @classmethod
    def lpips(
        cls,
        net_type: str = "alex",
        reduction: Reduction | None = "mean",
        normalize: bool = False,
        **kwargs: Any,
    ) -> "PerceptualDistance":
        """In place of torchmetrics' `LearnedPerceptualImagePatchSimilarity`: same arguments, range, numbers.

        The images are called `img1` and `img2`, as there.

        Args:
            net_type: `alex`, `squeeze` or `vgg`, with the published calibration v0.1.
            reduction: as in the class; None is `none`.
            normalize: images are in [0, 1] if True, else in [-1, 1].
            kwargs: of `torchmetrics.Metric`.

        Raises:
            ValueError: unknown network or reduction.
            FileNotFoundError: weights that cannot be found.
        """
        if net_type not in NETS:
            raise ValueError(f"net_type must be one of {', '.join(NETS)}, got {net_type!r}")
        distance = LPIPS(NETS[net_type], value_range=(0, 1) if normalize else (-1, 1))
        return LearnedPerceptualImagePatchSimilarity(
            distance, "none" if reduction is None else reduction, **kwargs
        )

    def update(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Add N pairs of images, (N, 3, H, W) each."""
        with torch.no_grad():
            self._add(self._measured(x, y, mask), self._counts(x, y, mask))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add N pairs of images and return the reduction over these alone, with its gradient."""
        if self.dist_sync_on_step:
            value: Tensor = super().forward(x, y, mask)
            return value
        distance, counts = self._measured(x, y, mask), self._counts(x, y, mask)
        self._computed = None
        self._update_count += 1
        self._add(distance.detach(), counts)
        value = REDUCTIONS[self.reduction](distance)
        if counts is not None:
            value = (distance * counts).sum() / counts.sum()
        self._forward_cache = value.detach()  # type: ignore[assignment]  # declared as None
        return value

    def compute(self) -> Tensor:
        """Mean, sum, or all distances."""
        if self.reduction == "none":
            distances = self.distances
            return torch.cat(distances) if isinstance(distances, list) else distances
        total, counted = self.total - self.lost
        if not counted:
            raise ValueError("no pairs of images were given")
        return total / counted if self.reduction == "mean" else total

    def _measured(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        return self.distance(x, y) if mask is None else self.distance(x, y, mask=mask)

    def _counts(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor | None:
        """What each pair counts in the mean, (N,); None: one."""
        if self.weight == "image":
            return None
        count, pixels = max(len(x), len(y)), float(x.shape[2:].numel())
        if mask is None:
            return x.new_full((count,), pixels, dtype=torch.float32)
        scale = 255 if mask.dtype == torch.uint8 else 1
        return (mask.detach().float().mean((1, 2, 3)) * (pixels / scale)).expand(count)

    def _add(self, distance: Tensor, counts: Tensor | None) -> None:
        if self.reduction == "none":
            self.distances.append(distance)
            return
        distance = distance.float()
        if counts is None:
            added = torch.stack([distance.sum(), distance.new_tensor(len(distance))])
        else:
            added = torch.stack([(distance * counts).sum(), counts.sum()])
        # Kahan: `lost` is what rounding added, so that the millionth pair counts as much as the first
        addend = added - self.lost
        total = self.total + addend
        self.lost = torch.where(total.isfinite(), total - self.total - addend, 0)
        self.total = total


class LearnedPerceptualImagePatchSimilarity(PerceptualDistance):
    """`PerceptualDistance` with the names that torchmetrics gives to the images."""

    def update(self, img1: Tensor, img2: Tensor) -> None:  # type: ignore[override]  # no masks there
        """Add N pairs of images, (N, 3, H, W) each."""
        super().update(img1, img2)

    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:  # type: ignore[override]
        """Add N pairs of images and return the reduction over these alone, with its gradient."""
        return super().forward(img1, img2)
