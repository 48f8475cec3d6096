"""JND pairs: their batches, table and dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import Images, read_batch
from perceptual.data.items.distance import Distance
from perceptual.data.items.table import Table


class PairBatch(NamedTuple):
    """N pairs and whether people saw a difference."""

    p0: Tensor  # (N, 3, H, W) float32, RGB in [0, 1]
    p1: Tensor  # the same
    same: Tensor  # (N,) float32, fraction of people who said "same"
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`

    def distances(self, distance: Distance) -> tuple[Tensor]:
        """(d,), the distance of each pair, (N,), by a distance (x, y) → (N,)."""
        return (distance(self.p0, self.p1),)

    def to(self, *args: Any, **kwargs: Any) -> "PairBatch":
        """The batch on another device, as `Tensor.to`."""
        return PairBatch(*(column.to(*args, **kwargs) for column in self))


@dataclass(frozen=True, eq=False, kw_only=True)
class PairTable(Table):
    """N pairs over M distinct images, see `Table`."""

    roles: ClassVar = ("p0", "p1")
    answer: ClassVar = "same"
    plural: ClassVar = "pairs"
    on_disk: ClassVar = "same"

    p0: np.ndarray
    p1: np.ndarray
    same: np.ndarray  # (N,) float32 in [0, 1], fraction that said "same"


class PairDataset(Dataset[PairBatch]):
    """Pairs of a table as float tensors; a DataLoader gets whole batches through `__getitems__`.

    Args:
        table: the pairs. Files are checked and decoded here, once for each distinct image.
        size: side S of the square that images are resized to (PIL bilinear, antialiased); None: they keep
            their sizes, and a batch holds images of one size.
        shorter_side: without `size`, pixels to resize the shorter side of each image to.

    Raises:
        ValueError: images cannot be used.
    """

    images_per_item = 2

    def __init__(self, table: PairTable, size: int | None = 64, shorter_side: int | None = None) -> None:
        self.table = table.open(size, shorter_side)
        self.images: Images = self.table.images  # type: ignore[assignment]
        self.sizes = self.table.sizes()
        self._items = torch.from_numpy(table.items())
        self._same = torch.from_numpy(table.same)
        self._subset = torch.from_numpy(table.subset)

    def __len__(self) -> int:
        return len(self._same)

    def __getitem__(self, index: int) -> PairBatch:
        """One pair, without the batch axis."""
        return PairBatch(*(column[0] for column in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> PairBatch:
        """A batch of pairs, in the order of the indices."""
        rows = torch.as_tensor(indices)
        p0, p1 = read_batch(self.images, self._items[:, rows].flatten()).chunk(2)
        return PairBatch(p0, p1, *self.judged(rows))

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`same` and subset, (n,) each, of the pairs that an int64 tensor (n,) chooses."""
        return self._same[rows], self._subset[rows]
