"""Cached calibration: what a frozen backbone says of each pair of images, computed once and kept on disk.

The distance is linear in lin, Σ_c lin_c · mean_hw (f̂0 − f̂1)²_c over all levels, so with a frozen backbone the
means are all that training needs: about a thousand numbers a pair, and no image.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data import TwoAFCDataModule
from perceptual.data.distinct import DistinctPairs
from perceptual.data.images import read_batch
from perceptual.data.loading import Batches, loader, val_loaders
from perceptual.data.pairs import PairDataset
from perceptual.data.triplets import TripletDataset
from perceptual.distance import LPIPS

VERSION = 1  # of the numbers; another one makes old caches foreign
CHUNK = 64  # pairs compared at once
FEATURE_BUDGET = 1 << 30  # bytes of feature maps held for images that recur


class DifferenceBatch(NamedTuple):
    """N triplets as the mean squared differences of their unit-normalised features, and how people judged."""

    means: Tensor  # (N, 2, C) float32, of (ref, p0) and (ref, p1); channels of all levels, shallow to deep
    judgment: Tensor  # (N,) float32, fraction of people who preferred p1
    weight: Tensor  # (N,) float32, weight in the loss
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`

    def distances(self, lpips: LPIPS) -> tuple[Tensor, Tensor]:
        """(d0, d1), each (N,)."""
        d0, d1 = lpips.weigh(self.means).unbind(1)
        return d0, d1

    def to(self, *args: Any, **kwargs: Any) -> "DifferenceBatch":
        """The batch on another device, as `Tensor.to`; Lightning would look into each field for tensors."""
        return DifferenceBatch(*(column.to(*args, **kwargs) for column in self))

    def swap(self, chosen: Tensor) -> "DifferenceBatch":
        """The batch with p0 and p1 exchanged, and so the judgment, of the triplets that (N,) bool chooses."""
        means = torch.where(chosen.view(-1, 1, 1), self.means.flip(1), self.means)
        return self._replace(means=means, judgment=torch.where(chosen, 1 - self.judgment, self.judgment))


class PairDifferenceBatch(NamedTuple):
    """N JND pairs as the mean squared differences of their unit-normalised features, and what people said."""

    means: Tensor  # (N, C) float32, the channels of all levels, shallow to deep
    same: Tensor  # (N,) float32, fraction of people who said "same"
    subset: Tensor  # (N,) int64, index into the datamodule's `jnd_subsets`

    def distances(self, lpips: LPIPS) -> tuple[Tensor]:
        """The distance of each pair, (N,), alone in a tuple."""
        return (lpips.weigh(self.means),)


class DifferenceDataset(Dataset[DifferenceBatch | PairDifferenceBatch]):
    """The items of a dataset, triplets or JND pairs, with cached means in place of images.

    Args:
        judged: N items.
        pairs: their distinct pairs.
        means: (P, C) float32, one row for each of `pairs`.
    """

    def __init__(self, judged: TripletDataset | PairDataset, pairs: DistinctPairs, means: Tensor) -> None:
        self._judged, self._means = judged, means
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
        means = self._means.index_select(0, which.flatten())
        return self._batch(means.view(*which.shape, -1), *self._judged.judged(rows))


class CachedDataModule(pl.LightningDataModule):
    """The batches of another data module with cached means in place of images.

    Args:
        data: where the triplets come from, set up for fit.
        lpips: the distance, whose backbone is frozen.
        folder: where caches lie, of any backbone and data; `default_folder` if not given.

    Raises:
        ValueError: the backbone is trained, so its features do not stay.
    """

    def __init__(
        self, data: TwoAFCDataModule, lpips: LPIPS, folder: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__()
        if not lpips.backbone.frozen:
            raise ValueError(f"the features of {lpips.backbone.name} cannot be cached: it is being trained")
        assert data.train_set is not None
        assert data.val_set is not None
        place = Path(folder) if folder else default_folder()
        self.data = data
        self.subsets, self.jnd_subsets = data.subsets, data.jnd_subsets
        self.train_set, self.val_set = (
            cached(lpips, triplets, place) for triplets in (data.train_set, data.val_set)
        )
        self.jnd_set = None if data.jnd_set is None else cached(lpips, data.jnd_set, place)

    def train_dataloader(self) -> Batches[DifferenceBatch]:
        """Training batches, in the order in which the other data module would give them."""
        return loader(self.train_set, self.data.batch_size, 0, self.data.seed, shuffle=True)

    def val_dataloader(self) -> Batches[DifferenceBatch] | list[Batches[Any]]:
        """Validation batches of all subsets, in a fixed order; JND pairs come by a second loader."""
        return val_loaders(self.val_set, self.jnd_set, self.data.batch_size, 0)


def default_folder() -> Path:
    """`$PERCEPTUAL_CACHE`, or `~/.cache/perceptual`; it can be removed at any time between runs."""
    return Path(os.environ.get("PERCEPTUAL_CACHE") or Path.home() / ".cache/perceptual")


def cached(lpips: LPIPS, judged: TripletDataset | PairDataset, folder: Path) -> DifferenceDataset:
    """The items with their means, from `folder` if it has them, else computed and kept there.

    Several processes may ask at once: one computes, the others wait. A computation that was interrupted goes
    on where it was.
    """
    pairs = DistinctPairs(judged)
    key = cache_key(lpips, judged)
    path = folder / f"{lpips.backbone.name}-{key[:16]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(pairs), sum(lpips.backbone.channels))
    with FileLock(f"{path}.lock"):
        if not _whole(path, shape):
            _compute(lpips, pairs, path, shape)
    means = np.load(path, mmap_mode="c")  # copy on write: the file stays as it is
    return DifferenceDataset(judged, pairs, torch.from_numpy(means))


def cache_key(lpips: LPIPS, judged: TripletDataset | PairDataset) -> str:
    """SHA-256, in hex, of everything the means depend on."""
    backbone = lpips.backbone
    parts = [
        VERSION,
        backbone.name,
        backbone.fingerprint(),
        backbone.out_indices,
        backbone.input_size,
        backbone.mean.flatten().tolist(),
        backbone.std.flatten().tolist(),
        backbone.precision,
        lpips.form,
        judged.table.fingerprint(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@torch.no_grad()
def mean_differences(lpips: LPIPS, pairs: DistinctPairs, start: int = 0) -> Iterator[Tensor]:
    """Means (n, C) float32 of the pairs from `start` on, in chunks; an image goes through the backbone once.

    Where the maps of all images do not fit `FEATURE_BUDGET`, those not met for the longest time are dropped
    and computed again if they come back; pairs are sorted by reference, so few do.
    """
    held: OrderedDict[int, list[Tensor]] = OrderedDict()
    device = lpips.backbone.mean.device
    for chunk in pairs.pairs[start:].split(CHUNK):
        images, place = chunk.unique(return_inverse=True)
        new = torch.tensor([i for i in images.tolist() if i not in held], dtype=torch.long)
        if len(new):
            maps = [lpips.unit(m) for m in lpips.backbone(read_batch(pairs.images, new).to(device))]
            held.update((i, [m[n] for m in maps]) for n, i in enumerate(new.tolist()))
        levels = zip(*(held[i] for i in images.tolist()), strict=True)
        first, second = place.T.to(device)
        means = []
        for level in levels:
            f = torch.stack(level)
            means.append((f[first] - f[second]).square().mean((2, 3)))
        yield torch.cat(means, dim=1).float().cpu()
        _drop_oldest(held, images.tolist())


def _drop_oldest(held: "OrderedDict[int, list[Tensor]]", used: Sequence[int]) -> None:
    for i in used:
        held.move_to_end(i)
    size = sum(m.nbytes for m in held[used[0]])
    while len(held) * size > FEATURE_BUDGET:
        held.popitem(last=False)


def _compute(lpips: LPIPS, pairs: DistinctPairs, path: Path, shape: tuple[int, int]) -> None:
    """Write the means to a partial file, going on where an earlier process stopped; rename it when whole."""
    partial, progress = Path(f"{path}.partial"), Path(f"{path}.rows")
    start = int(progress.read_text()) if progress.is_file() and _whole(partial, shape) else 0
    mode = "r+" if start else "w+"
    means = np.lib.format.open_memmap(partial, mode, np.float32, shape)
    chunks = mean_differences(lpips, pairs, start)
    total = -(-(len(pairs) - start) // CHUNK)
    label = f"Features of {lpips.backbone.name}"
    console = Console(stderr=True)
    for chunk in track(
        chunks, label, total, console=console, transient=True, disable=not console.is_terminal
    ):
        means[start : start + len(chunk)] = chunk.numpy()
        start += len(chunk)
        means.flush()
        _replace(progress, str(start))
    del means
    os.replace(partial, path)
    progress.unlink(missing_ok=True)


def _whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a file is a float32 array of this shape to its last byte."""
    try:
        means = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return means.shape == shape and means.dtype == np.float32


def _replace(path: Path, text: str) -> None:
    fresh = Path(f"{path}.new")
    fresh.write_text(text)
    os.replace(fresh, path)
