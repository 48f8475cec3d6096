"""One metric per subset of a data set, with its macro and its micro mean."""

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric
from torchmetrics.wrappers.abstract import WrapperMetric

MACRO, MICRO = "mean", "micro"


class PerSubset(WrapperMetric):
    """A metric of each subset by name, their plain mean, and the metric of all items pooled.

    `update(*args, subset=index)` takes what the metric's own `update` takes, (N, …) tensors, and `index`,
    the (N,) integer position of each item's subset in `subsets`. `compute()` gives a dictionary of scalars:
    a key per subset that has items, then `"mean"`, the macro mean over those subsets (what Zhang et al. call
    "all"), and `"micro"`, the metric over all items together. A subset without items on any process is
    left out of both.

    Args:
        metric: a torchmetrics metric with a scalar result; it is copied, never changed.
        subsets: distinct names, none of them "mean" or "micro".
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.

    Raises:
        ValueError: a name is taken or repeated, `subset` does not fit, or there are no items to compute from.
    """

    def __init__(self, metric: Metric, subsets: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not subsets or len(set(subsets)) < len(subsets) or {MACRO, MICRO} & set(subsets):
            raise ValueError(
                f"subsets must be distinct names other than {MACRO!r} and {MICRO!r}, got {list(subsets)}"
            )
        self.subsets = list(subsets)
        # lists, not a ModuleDict: a subset may bear the name of an attribute of nn.Module
        self.metrics = cast(list[Metric], nn.ModuleList(metric.clone() for _ in subsets))
        self.counts = cast(list[Metric], nn.ModuleList(SumMetric() for _ in subsets))
        self.pooled: Metric = metric.clone()

    def update(self, *args: Tensor, subset: Tensor) -> None:
        """Add N items: the metric's arguments, and (N,) positions in `subsets`."""
        parts = self._split(args, subset)
        self.pooled.update(*args)
        for i, part in parts.items():
            self.counts[i].update(len(part[0]))
            self.metrics[i].update(*part)

    def forward(self, *args: Tensor, subset: Tensor) -> dict[str, Tensor]:
        """Add N ≥ 1 items and return the result of these alone."""
        parts = self._split(args, subset)
        if not parts:
            raise ValueError("subset must have at least one item, got none")
        micro = self.pooled(*args)
        values = []
        for i, part in parts.items():
            self.counts[i].update(len(part[0]))
            values.append(self.metrics[i](*part))
        return _with_means([self.subsets[i] for i in parts], values, micro)

    def compute(self) -> dict[str, Tensor]:
        """Scores by subset over the items of all processes, with `"mean"` and `"micro"`."""
        with warnings.catch_warnings():
            # this process may have none of a subset's items while another has some
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            # every process sees the same counts, hence joins the same merges
            filled = [i for i, count in enumerate(self.counts) if count.compute() > 0]
            if not filled:
                raise ValueError(f"no items were given for any of the subsets {self.subsets}")
            values = [self.metrics[i].compute() for i in filled]
            return _with_means([self.subsets[i] for i in filled], values, self.pooled.compute())

    def reset(self) -> None:
        """Forget all items."""
        super().reset()
        for metric in (*self.metrics, *self.counts, self.pooled):
            metric.reset()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scores by subset, or those of several steps, within the bounds of the metric."""
        return self._plot(val, ax)

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """That of the metric."""
        return self.pooled.plot_lower_bound

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """That of the metric."""
        return self.pooled.plot_upper_bound

    def _split(self, args: tuple[Tensor, ...], subset: Tensor) -> dict[int, tuple[Tensor, ...]]:
        """The arguments of each subset that has items here, by position."""
        self._check(args, subset)
        masks = {i: subset == i for i in range(len(self.subsets))}
        return {i: tuple(arg[mask] for arg in args) for i, mask in masks.items() if mask.any()}

    def _check(self, args: tuple[Tensor, ...], subset: Tensor) -> None:
        if subset.ndim != 1 or subset.is_floating_point() or subset.dtype == torch.bool:
            raise ValueError(f"subset must be (N,) integers, got {tuple(subset.shape)} {subset.dtype}")
        if any(len(arg) != len(subset) for arg in args):
            raise ValueError(f"subset has {len(subset)} items, the other arguments {[len(a) for a in args]}")
        if len(subset) and (subset.min() < 0 or subset.max() >= len(self.subsets)):
            raise ValueError(
                f"subset must lie in 0 … {len(self.subsets) - 1}, the positions in {self.subsets}, "
                f"got {int(subset.min())} … {int(subset.max())}"
            )


def _with_means(names: list[str], values: list[Tensor], micro: Tensor) -> dict[str, Tensor]:
    return {**dict(zip(names, values, strict=True)), MACRO: torch.stack(values).mean(), MICRO: micro}
