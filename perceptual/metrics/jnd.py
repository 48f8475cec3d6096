"""Just noticeable differences (JND): does a distance rank first the pairs that people call the same?

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
https://arxiv.org/abs/1801.03924, shown there as "JND mAP". The area is that of PASCAL VOC since 2010 (all
points of the precision envelope).
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def jnd_average_precision(distance: Tensor, same: Tensor) -> Tensor:
    """Average precision of "small distance" as a sign of "looks the same", with soft labels.

    Pairs enter the curve by ascending distance, equal distances together, so that the order of the items
    never matters and a constant distance scores the base rate, mean(same).

    Args:
        distance: (N,) distance of each pair; infinite is allowed, NaN is not.
        same: (N,) fraction of people who said "same", in [0, 1].

    Returns:
        Float64 scalar in [0, 1]; NaN, as undefined, where there is no pair that anybody called the same.

    Raises:
        ValueError: shapes differ or are not (N,), a distance is NaN, or `same` is outside [0, 1].
    """
    _check(distance, same)
    same, order = same.double().sort()  # so that ties add up in one order, to the last bit
    values, group = distance[order].double().unique(sorted=True, return_inverse=True)
    called_same = same.new_zeros(len(values)).index_add(0, group, same)
    tp = called_same.cumsum(0)  # tp + fp, below, is the number of pairs so far: a pair adds same + (1 − same)
    recall = tp / tp[-1:]
    precision = tp / group.bincount(minlength=len(values)).cumsum(0)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    area = (recall.diff(prepend=recall.new_zeros(1)) * envelope).sum()
    return area if len(values) else area.new_tensor(torch.nan)


def _check(distance: Tensor, same: Tensor) -> None:
    if distance.ndim != 1 or distance.shape != same.shape:
        shapes = f"{tuple(distance.shape)} and {tuple(same.shape)}"
        raise ValueError(f"distance and same must have one shape (N,), got {shapes}")
    if (missing := int(distance.isnan().sum())) > 0:
        raise ValueError(f"distance must not be NaN, but {missing} of {len(distance)} items are")
    if (outside := int((~((same >= 0) & (same <= 1))).sum())) > 0:
        raise ValueError(f"same must lie in [0, 1], but {outside} of {len(same)} do not")


class JNDAveragePrecision(Metric):
    """JND average precision over all pairs seen: see `jnd_average_precision`.

    `update(distance, same)`, (N,) each; `compute()` gives a float64 scalar (float32 on mps, which has
    nothing wider). Pairs are kept, 16 bytes each, because the curve has to sort them.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    distance: list[Tensor]
    same: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("distance", [], dist_reduce_fx="cat")
        self.add_state("same", [], dist_reduce_fx="cat")

    @property
    def _float(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def update(self, distance: Tensor, same: Tensor) -> None:
        """Add N pairs: distances and fractions of "same", (N,) each."""
        _check(distance, same)
        self.distance.append(distance.detach().to(self.device, self._float))
        self.same.append(same.detach().to(self.device, self._float))

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics stands float32 in for a process without pairs, which does not mix with float64
        nothing = torch.zeros(0, dtype=self._float, device=self.device)
        self.distance, self.same = [*self.distance, nothing], [*self.same, nothing]
        super()._sync_dist(*args, **kwargs)

    def compute(self) -> Tensor:
        """Average precision over the pairs of all processes."""
        area = jnd_average_precision(_joined(self.distance), _joined(self.same))
        return area.to(self.device, self._float)


def _joined(state: Tensor | list[Tensor]) -> Tensor:
    # a list before processes are merged, one tensor after
    return torch.cat([torch.zeros(0), *state] if isinstance(state, list) else [state]).cpu()
