"""Cached calibration: what a frozen backbone says of each pair of images, computed once and kept on disk.

The distance is linear in lin, Σ_c lin_c · mean_hw (f̂0 − f̂1)²_c over all levels, so with a frozen backbone the
means are all that training needs: about a thousand numbers a pair, and no image.
"""

import json
import math
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data import TwoAFCDataModule
from perceptual.data.images import read_batch
from perceptual.data.items.augmentation import replace_half
from perceptual.data.items.distinct import DistinctPairs
from perceptual.data.items.pairs import PairDataset
from perceptual.data.items.triplets import TripletDataset
from perceptual.data.loading import Batches, loader, val_loaders
from perceptual.distance.level import unit_normalize
from perceptual.distance.lpips import LPIPS

VERSION = 2  # of the numbers and of the files; another one makes old caches foreign
CHUNK = 64  # pairs compared at once
PART = 1024  # pairs that a process computes alone, checksums together, and loses at most when it is killed
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
    """N triplets as the mean squared differences of their unit-normalised features, and how people judged."""

    means: Tensor  # (N, 2, C) float32, of (ref, p0) and (ref, p1); channels of all levels, shallow to deep
    judgment: Tensor  # (N,) float32, fraction of people who preferred p1
    weight: Tensor  # (N,) float32, weight in the loss
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`

    def distances(self, lpips: LPIPS) -> tuple[Tensor, Tensor]:
        """(d0, d1), each (N,)."""
        d0, d1 = weigh(lpips, self.means).unbind(1)
        return d0, d1

    def to(self, *args: Any, **kwargs: Any) -> "DifferenceBatch":
        """The batch on another device, as `Tensor.to`; Lightning would look into each field for tensors."""
        return DifferenceBatch(*(column.to(*args, **kwargs) for column in self))

    def swap(self, draws: Tensor) -> "DifferenceBatch":
        """The batch with p0 and p1 exchanged, and so the judgment, of the triplets with draws (N, …) < ½."""
        means = replace_half(self.means, self.means.flip(1), draws)
        return self._replace(means=means, judgment=replace_half(self.judgment, 1 - self.judgment, draws))


class PairDifferenceBatch(NamedTuple):
    """N JND pairs as the mean squared differences of their unit-normalised features, and what people said."""

    means: Tensor  # (N, C) float32, the channels of all levels, shallow to deep
    same: Tensor  # (N,) float32, fraction of people who said "same"
    subset: Tensor  # (N,) int64, index into the datamodule's `jnd_subsets`

    def distances(self, lpips: LPIPS) -> tuple[Tensor]:
        """The distance of each pair, (N,), alone in a tuple."""
        return (weigh(lpips, self.means),)


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

    `setup`, which Lightning calls in every process, computes what is not there yet; the processes share it.

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
        self.data = data
        self.subsets, self.jnd_subsets = data.subsets, data.jnd_subsets
        self.folder = Path(folder) if folder else default_folder()
        self._lpips = lpips
        self.train_set: DifferenceDataset | None = None
        self.val_set: DifferenceDataset | None = None
        self.jnd_set: DifferenceDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Compute the means, or find them; on the trainer's device, if there is one."""
        if self.train_set is not None:
            return
        data, backbone = self.data, self._lpips.backbone
        assert data.train_set is not None
        assert data.val_set is not None
        before = backbone.mean.device
        backbone.to(self.trainer.strategy.root_device if self.trainer else before)
        self.val_set = cached(self._lpips, data.val_set, self.folder)
        self.jnd_set = None if data.jnd_set is None else cached(self._lpips, data.jnd_set, self.folder)
        self.train_set = cached(self._lpips, data.train_set, self.folder)
        backbone.to(before)

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

    Several processes may ask at once, ranks of one run or runs of a sweep: they share the work, part by part.
    A computation that was interrupted goes on where it was; parts whose checksum is wrong are made again.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    pairs = DistinctPairs(judged)
    about = describe(lpips, judged)
    cache = _Cache(folder, about, (len(pairs), sum(lpips.backbone.channels)))
    cache.open()
    cache.complete(lpips, pairs)
    return DifferenceDataset(judged, pairs, torch.from_numpy(cache.means()))


def describe(lpips: LPIPS, judged: TripletDataset | PairDataset) -> dict[str, Any]:
    """Everything the means depend on, for JSON; pixels enter as they are after resizing."""
    backbone = lpips.backbone
    return {
        "version": VERSION,
        "backbone": backbone.name,
        "weights": backbone.fingerprint(),
        "levels": list(backbone.out_indices),
        "input_size": list(backbone.input_size) if backbone.input_size else None,
        "mean": backbone.mean.flatten().tolist(),
        "std": backbone.std.flatten().tolist(),
        "precision": backbone.precision,
        "form": lpips.form,
        "data": judged.table.fingerprint(),
    }


@torch.no_grad()
def mean_differences(
    lpips: LPIPS,
    pairs: DistinctPairs,
    start: int = 0,
    stop: int | None = None,
    held: "OrderedDict[int, list[Tensor]] | None" = None,
) -> Iterator[Tensor]:
    """Means (n, C) float32 of the pairs from `start` to `stop`, in chunks.

    An image goes through the backbone once; `held` keeps its maps from one call to the next.

    Where the maps of all images do not fit `FEATURE_BUDGET`, those not met for the longest time are dropped
    and computed again if they come back; pairs are sorted by reference, so few do.
    """
    held = OrderedDict() if held is None else held
    device = lpips.backbone.mean.device
    for chunk in pairs.pairs[start:stop].split(CHUNK):
        images, place = chunk.unique(return_inverse=True)
        new = torch.tensor([i for i in images.tolist() if i not in held], dtype=torch.long)
        if len(new):
            maps = [
                unit_normalize(f.to(lpips.lin[0].dtype))  # bfloat16 would make ties of preferences
                for f in lpips.maps(read_batch(pairs.images, new).to(device))
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


def _drop_oldest(held: "OrderedDict[int, list[Tensor]]", used: Sequence[int]) -> None:
    for i in used:
        held.move_to_end(i)
    size = sum(m.nbytes for m in held[used[0]])
    while len(held) * size > FEATURE_BUDGET:
        held.popitem(last=False)


class _Cache:
    """Means on disk: a folder with `means.npy`, what they are of, and a checksum of each part so far."""

    def __init__(self, folder: Path, about: dict[str, Any], shape: tuple[int, int]) -> None:
        self.about = json.dumps(about, indent=1)
        self.folder = folder / f"{about['backbone']}-{sha256(self.about.encode()).hexdigest()[:16]}"
        self.shape = shape
        self.parts = range(0, shape[0], PART)

    def open(self) -> None:
        """Make the folder, or check what is in it: what is not as it was written is forgotten."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            if self._fits():
                means = self.means()
                for part in self.parts:
                    if self._is_there(part) and self._sum_on_record(part) != _checksum(means, part):
                        self._record(part).unlink()
            else:
                self._begin()

    def complete(self, lpips: LPIPS, pairs: DistinctPairs) -> None:
        """Compute the parts that are missing and that no other process computes; wait for the others."""
        missing = [part for part in self.parts if not self._is_there(part)]
        if not missing:
            return
        console = Console(stderr=True)
        held: OrderedDict[int, list[Tensor]] = OrderedDict()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            label = f"Features of {lpips.backbone.name}"
            bar = progress.add_task(label, total=self.shape[0], completed=self.shape[0] - len(missing) * PART)
            # first what nobody is at, then what somebody was at, who may have been killed
            for timeout in (0, -1):
                for part in missing:
                    if self._is_there(part):
                        progress.advance(bar, PART if timeout == 0 else 0)
                        continue
                    try:
                        with FileLock(f"{self._record(part)}.lock", timeout=timeout):
                            if not self._is_there(part):
                                for count in self._compute(lpips, pairs, part, held):
                                    progress.advance(bar, count)
                    except Timeout:
                        continue

    def means(self) -> np.ndarray:
        """The array, mapped; copy on write, so that the file stays as it is."""
        means: np.ndarray = np.load(self.folder / "means.npy", mmap_mode="c")
        return means

    def _compute(
        self, lpips: LPIPS, pairs: DistinctPairs, part: int, held: "OrderedDict[int, list[Tensor]]"
    ) -> Iterator[int]:
        means = np.lib.format.open_memmap(self.folder / "means.npy", "r+")
        row = part
        for chunk in mean_differences(lpips, pairs, part, part + PART, held):
            means[row : row + len(chunk)] = chunk.numpy()
            row += len(chunk)
            yield len(chunk)
        means.flush()
        fresh = self.folder / f"{part}.new"
        fresh.write_text(str(_checksum(means, part)))
        os.replace(fresh, self._record(part))

    def _fits(self) -> bool:
        """Whether the folder is of these means, and the array whole to its last byte."""
        try:
            means = self.means()
            about = (self.folder / "about.json").read_text()
        except (OSError, ValueError, EOFError):
            return False
        return about == self.about and means.shape == self.shape and means.dtype == np.float32

    def _begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        try:
            path = self.folder / "means.npy"
            np.lib.format.open_memmap(path, "w+", np.float32, self.shape)
            with path.open("r+b") as file:
                # now is the time to hear that the disk is full, and not as a signal amid the work
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            (self.folder / "about.json").write_text(self.about)
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            size = 4 * math.prod(self.shape) / 1e6
            raise OSError(
                f"cannot keep {size:,.0f} MB of features in {self.folder.parent}: {error.strerror}; "
                "PERCEPTUAL_CACHE names another folder, data.cache=off does without"
            ) from error

    def _record(self, part: int) -> Path:
        return self.folder / f"{part}.crc32"

    def _is_there(self, part: int) -> bool:
        return self._record(part).is_file()

    def _sum_on_record(self, part: int) -> int | None:
        text = self._record(part).read_text()
        return int(text) if text.isdecimal() else None


def _checksum(means: np.ndarray, part: int) -> int:
    return zlib.crc32(np.ascontiguousarray(means[part : part + PART]).data)
