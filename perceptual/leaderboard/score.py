"""Score distances on judged triplets, reading each batch once for all of them."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from perceptual.metrics import PerSubset, TwoAFCScore

Distance = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def score(
    distances: Mapping[str, Distance], loader: Iterable[Any], subsets: Sequence[str]
) -> dict[str, dict[str, float]]:
    """2AFC scores in [0, 1] of each distance, as training computes them.

    Args:
        distances: (x, y) → (N,) by method name; one with a method `triplet(ref, p0, p1) → (d0, d1)`, as
            LPIPS has, is asked by that.
        loader: `TripletBatch`es.
        subsets: names that `batch.subset` counts.

    Returns:
        for each method its score by subset, then `mean` (macro) and `micro`.
    """
    scores = {name: PerSubset(TwoAFCScore(), subsets) for name in distances}
    quiet = not sys.stderr.isatty()
    for batch in track(loader, "Scoring", console=Console(stderr=True), transient=True, disable=quiet):
        for name, distance in distances.items():
            d0, d1 = triplet(distance, batch.ref, batch.p0, batch.p1)
            scores[name].update(d0.cpu(), d1.cpu(), batch.judgment, subset=batch.subset)
    return {
        name: {subset: value.item() for subset, value in metric.compute().items()}
        for name, metric in scores.items()
    }


def triplet(distance: Distance, ref: Tensor, p0: Tensor, p1: Tensor) -> tuple[Tensor, Tensor]:
    """(d0, d1), (N,) each, on the device of the distance."""
    ref, p0, p1 = (images.to(_device(distance)) for images in (ref, p0, p1))
    if hasattr(distance, "triplet"):
        return distance.triplet(ref, p0, p1)
    return distance(ref, p0), distance(ref, p1)


def _device(distance: Distance) -> torch.device:
    if not isinstance(distance, nn.Module):
        return torch.device("cpu")
    return next(chain(distance.parameters(), distance.buffers()), torch.empty(0)).device
