"""How different the samples of one group look from each other: the diversity of generative models.

Introduced with LPIPS by Zhu et al., "Toward Multimodal Image-to-Image Translation" (BicycleGAN), NeurIPS
2017, https://arxiv.org/abs/1711.11586, and used so since, as in StarGAN v2 (Choi et al., CVPR 2020).
"""

from typing import Any

import torch
from torch import Tensor

from perceptual.distance.lpips import LPIPS
from perceptual.metrics.distance import OfDistance

BATCH = 64  # images that go through the backbone at once


class PerceptualDiversity(OfDistance):
    """Mean LPIPS of all pairs of samples within a group, then the mean over groups.

    A group is what shares an input: the outputs of one image, or the images of one class. `update(images,
    group)` adds samples, of one group in as many updates and processes as they come; `compute()` gives the
    mean over groups of at least two samples of the mean over their unordered pairs.

    LPIPS is the squared Euclidean distance of the vectors of `LPIPS.embed`, and the distances of all pairs of
    n vectors add up to n Σ‖v‖² − ‖Σv‖². A group is therefore kept as three sums, in float64, whose rounding
    of 1e-15 is far below that of the features: memory is 8 D bytes per group, D the length of a vector (32
    thousand for AlexNet at 64×64), however many samples it has, and n samples cost n backbone passes instead
    of n (n − 1).

    Examples:
        >>> import torch
        >>> from perceptual import LPIPS, Backbone
        >>> metric = PerceptualDiversity(LPIPS(Backbone("test_resnet", weights=None)))
        >>> same = torch.full((4, 3, 32, 32), 0.5)
        >>> metric.update(same, group=0)
        >>> round(metric.compute().item(), 6)
        0.0

    Args:
        distance: the LPIPS; its channel weights must not be negative.
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.

    Raises:
        TypeError: a distance that is no LPIPS, and has no vectors.
        ValueError: (on update) images as `LPIPS` refuses them, of another size than before, or groups that do
            not fit; (on compute) no group has two samples.
    """

    higher_is_better = True
    is_differentiable = False

    groups: list[Tensor]
    counts: list[Tensor]
    squares: list[Tensor]
    sums: list[Tensor]

    def __init__(self, distance: LPIPS, **kwargs: Any) -> None:
        if not isinstance(distance, LPIPS):
            raise TypeError(f"distance must be an LPIPS, got {type(distance).__name__}")
        super().__init__(distance, **kwargs)
        for state in ("groups", "counts", "squares", "sums"):
            self.add_state(state, [], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, images: Tensor, group: Tensor | int, mask: Tensor | None = None) -> None:
        """Add samples.

        Args:
            images: (N, 3, H, W) as `LPIPS` takes them; one size for all samples.
            group: the group of each, (N,) integers, or one number for all.
            mask: (1, 1, H, W), what counts, as `LPIPS` takes it; the same for all samples of a group.
        """
        if mask is not None and (mask.ndim != 4 or len(mask) != 1):
            raise ValueError(f"mask must be one for all samples, (1, 1, H, W), got {tuple(mask.shape)}")
        group = _as_tensor(group, len(images)).to(self.device)
        metric: Any = self.distance
        chunks = images.split(BATCH)
        vectors = torch.cat([metric.embed(chunk, mask) for chunk in chunks]).to(self.device, self._float)
        held = [*self._held()]
        if len(held[0]) and len(held[3]) // len(held[0]) != vectors.shape[1]:
            raise ValueError(
                f"images of {images.shape[2]}×{images.shape[3]} have another size than those before: all "
                "samples have one size"
            )
        added = (group, torch.ones_like(group), vectors.square().sum(1), vectors.flatten())
        merged = _merge(*(torch.cat(parts) for parts in zip(held, added, strict=True)))
        self.groups, self.counts, self.squares, self.sums = ([part] for part in merged)

    def compute(self) -> Tensor:
        """The mean over groups of the mean over pairs, a scalar, over all processes."""
        _, counts, squares, sums = _merge(*self._held())
        enough = counts >= 2
        if not enough.any():
            raise ValueError("no group has two samples, of which diversity is made")
        n, total = counts[enough], sums.view(len(counts), -1)[enough].square().sum(1)
        pairs = n * (n - 1) / 2
        return ((n * squares[enough] - total) / pairs).clamp(min=0).mean()

    def reset(self) -> None:
        """Forget all samples."""
        # new lists: torchmetrics empties the old ones, which its `Running` still holds
        self.groups, self.counts, self.squares, self.sums = [], [], [], []
        super().reset()

    @property
    def _float(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _held(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kinds = (torch.long, torch.long, self._float, self._float)
        states = (self.groups, self.counts, self.squares, self.sums)
        groups, counts, squares, sums = (
            torch.cat([torch.zeros(0, dtype=kind, device=self.device), *state])
            if isinstance(state, list)
            else state
            for state, kind in zip(states, kinds, strict=True)
        )
        return groups, counts, squares, sums

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics uses float32 for a process without samples, which does not mix with other types
        self.groups, self.counts, self.squares, self.sums = ([state] for state in self._held())
        super()._sync_dist(*args, **kwargs)


def _merge(
    groups: Tensor, counts: Tensor, squares: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One entry per group, with the sums of all its entries; `sums` are (G·D,)."""
    names, which = groups.unique(return_inverse=True)
    rows = sums.view(len(groups), -1) if len(groups) else sums.view(0, 0)

    def add(values: Tensor) -> Tensor:
        return values.new_zeros(len(names), *values.shape[1:]).index_add(0, which, values)

    return names, add(counts), add(squares), add(rows).flatten()


def _as_tensor(group: Tensor | int, count: int) -> Tensor:
    if not isinstance(group, Tensor):
        return torch.full((count,), group, dtype=torch.long)
    if group.shape != (count,) or group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(
            f"group must be one integer or ({count},) of them, got {tuple(group.shape)} {group.dtype}"
        )
    return group.long()
