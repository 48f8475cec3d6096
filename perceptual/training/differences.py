"""Distances of a frozen backbone from numbers instead of images: the mean squared differences per channel.

The distance is linear in lin, Σ_c lin_c · mean_hw (f̂0 − f̂1)²_c over all levels, so with a frozen backbone
the means are all that training needs: about a thousand numbers per pair, and no image. `cache` keeps them on
disk.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import read_checked
from perceptual.data.items.augmentation import replace_half, view
from perceptual.data.items.distinct import DistinctPairs
from perceptual.data.items.pairs import PairDataset
from perceptual.data.items.triplets import TripletDataset
from perceptual.data.shuffle import PIXELS
from perceptual.distance.level import unit_normalize
from perceptual.distance.lpips import LPIPS

CHUNK = 64  # pairs compared at once
FEATURE_BUDGET = 1 << 30  # bytes of feature maps held for images that recur


def weigh(lpips: LPIPS, means: Tensor) -> Tensor:
    """Distances (…) from mean squared differences (…, C) of unit-normalised features.

    C counts the channels of all levels. `lpips.dropout` drops channels here, the same for all of `means`,
    where `LPIPS.forward` drops elements of the maps before their mean is taken. The scores are the same: on
    people's choices of materials (AlexNet, split by image, seeds 0, 1, 2) channels gained 1.30 points on
    average, elements 1.35, and no dropout 1.32.
    """
    # not a matrix product, which autocast would take in half precision and may sum equal rows unequally
    return (means * lpips.dropout(torch.cat(list(lpips.lin)))).sum(-1)


class DifferenceBatch(NamedTuple):
    """N triplets as the mean squared differences of their unit-normalised features, and their judgments."""

    means: Tensor  # (N, 2, C) float32, of (ref, p0) and (ref, p1); channels of all levels, shallow to deep
    judgment: Tensor  # (N,) float32, fraction of people who preferred p1
    weight: Tensor  # (N,) float32, weight in the loss
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`

    def distances(self, distance: LPIPS) -> tuple[Tensor, Tensor]:
        """(d0, d1), each (N,), by an LPIPS on the backbone that the means are from."""
        d0, d1 = weigh(distance, self.means).unbind(1)
        return d0, d1

    def to(self, *args: Any, **kwargs: Any) -> "DifferenceBatch":
        """The batch on another device, as `Tensor.to`."""
        return DifferenceBatch(*(column.to(*args, **kwargs) for column in self))

    def swap(self, draws: Tensor) -> "DifferenceBatch":
        """The batch with p0 and p1 exchanged, and so the judgment, of the triplets with draws (N, …) < ½."""
        means = replace_half(self.means, self.means.flip(1), draws)
        return self._replace(means=means, judgment=replace_half(self.judgment, 1 - self.judgment, draws))


class PairDifferenceBatch(NamedTuple):
    """N JND pairs as the mean squared differences of their unit-normalised features, and their judgments."""

    means: Tensor  # (N, C) float32, the channels of all levels, shallow to deep
    same: Tensor  # (N,) float32, fraction of people who said "same"
    subset: Tensor  # (N,) int64, index into the datamodule's `jnd_subsets`

    def distances(self, distance: LPIPS) -> tuple[Tensor]:
        """The distance of each pair, (N,), alone in a tuple, by an LPIPS on the backbone of the means."""
        return (weigh(distance, self.means),)

    def to(self, *args: Any, **kwargs: Any) -> "PairDifferenceBatch":
        """The batch on another device, as `Tensor.to`."""
        return PairDifferenceBatch(*(column.to(*args, **kwargs) for column in self))


class DifferenceDataset(Dataset[DifferenceBatch | PairDifferenceBatch]):
    """The items of a dataset, triplets or JND pairs, with cached means in place of images.

    Args:
        judged: N items.
        pairs: their distinct pairs.
        views: for each view of the images, (P, C) float32 each, one row for each of `pairs`; side by side,
            those of all levels. A batch is of one view, which follows from its items.
    """

    def __init__(
        self, judged: TripletDataset | PairDataset, pairs: DistinctPairs, views: Sequence[Sequence[Tensor]]
    ) -> None:
        self._judged, self._views = judged, views
        self._which = torch.from_numpy(pairs.which.T.copy()).squeeze(1)  # (N, 2) of triplets, (N,) of pairs
        self._batch: Any = DifferenceBatch if isinstance(judged, TripletDataset) else PairDifferenceBatch

    def __len__(self) -> int:
        return len(self._judged)

    def __getitem__(self, index: int) -> DifferenceBatch | PairDifferenceBatch:
        """One item, without the batch axis."""
        return self._batch(*(column[0] for column in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> DifferenceBatch | PairDifferenceBatch:
        """A batch of items, in the order of the indices."""
        rows = torch.as_tensor(indices)
        which = self._which[rows]
        rows_of = which.flatten()
        # in training the sum is another each epoch; so a resumed run draws the same views
        chosen = self._views[int(rows.sum()) % len(self._views)]
        parts = [part.index_select(0, rows_of) for part in chosen]
        means = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self._batch(means.view(*which.shape, -1), *self._judged.judged(rows))


@torch.no_grad()
def mean_differences(
    lpips: LPIPS,
    pairs: DistinctPairs,
    start: int = 0,
    stop: int | None = None,
    held: "OrderedDict[int, list[Tensor]] | None" = None,
    number: int = 0,
) -> Iterator[Tensor]:
    """Means (n, C) float32 of the pairs from `start` to `stop`, in chunks.

    Each image goes through the backbone once; `held` keeps its maps from one call to the next. Where the maps
    of all images do not fit `FEATURE_BUDGET`, those used least recently are dropped and computed again when
    they recur; pairs are sorted by reference, so few do. `number` is that of the view of the images, see
    `augmentation.view`.
    """
    held = OrderedDict() if held is None else held
    device = lpips.backbone.mean.device
    for chunk in _chunks(pairs, start, stop):
        images, place = chunk.unique(return_inverse=True)
        new = torch.tensor([i for i in images.tolist() if i not in held], dtype=torch.long)
        if len(new):
            maps = [
                unit_normalize(f.to(lpips.lin[0].dtype))  # bfloat16 would make ties of preferences
                for f in lpips.maps(view(read_checked(pairs.images, new), number).to(device))
            ]
            held.update((i, [m[n] for m in maps]) for n, i in enumerate(new.tolist()))
        levels = zip(*(held[i] for i in images.tolist()), strict=True)
        first, second = place.T.to(device)
        means = []
        for level in levels:
            f = torch.stack(level)
            means.append((f[first] - f[second]).square().mean((2, 3)))
        yield torch.cat(means, dim=1).float().cpu()
        _drop_oldest(held, images.tolist())


def _chunks(pairs: DistinctPairs, start: int, stop: int | None) -> Iterator[Tensor]:
    """Pairs (n, 2) to compare at once: `CHUNK`, or fewer where images keep their sizes, all of one size."""
    rows = pairs.pairs[start:stop]
    if pairs.sizes is None:
        yield from rows.split(CHUNK)
        return
    sizes = pairs.sizes[start:stop]
    ends = np.append(np.flatnonzero((sizes[1:] != sizes[:-1]).any(1)) + 1, len(rows))
    for first, last in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
        if last > first:
            count = max(1, min(CHUNK, PIXELS // (2 * int(sizes[first].prod()))))
            yield from rows[first:last].split(count)


def _drop_oldest(held: "OrderedDict[int, list[Tensor]]", used: Sequence[int]) -> None:
    for i in used:
        held.move_to_end(i)
    size = sum(m.nbytes for maps in held.values() for m in maps)
    while size > FEATURE_BUDGET:
        size -= sum(m.nbytes for m in held.popitem(last=False)[1])
