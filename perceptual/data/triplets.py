"""2AFC triplets: the batch that models see, the table they are listed in, and the dataset between the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import Images, read_batch
from perceptual.data.tables import Table


class TripletBatch(NamedTuple):
    """N triplets and how people judged them."""

    ref: Tensor  # (N, 3, S, S) float32, RGB in [0, 1]
    p0: Tensor  # the same
    p1: Tensor  # the same
    judgment: Tensor  # (N,) float32, fraction of people who preferred p1
    weight: Tensor  # (N,) float32, weight in the loss: 1 unless votes weight it
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`; -1 if it is none of them

    def distances(self, distance: Any) -> tuple[Tensor, Tensor]:
        """(d0, d1), each (N,), by a distance with `triplet(ref, p0, p1)`, as LPIPS is."""
        d0, d1 = distance.triplet(self.ref, self.p0, self.p1)
        return d0, d1

    def flip(self, chosen: Tensor) -> "TripletBatch":
        """The batch with all three images mirrored, left to right, of the triplets that (N,) bool chooses."""
        row = chosen.view(-1, 1, 1, 1)
        ref, p0, p1 = (torch.where(row, images.flip(3), images) for images in self[:3])
        return self._replace(ref=ref, p0=p0, p1=p1)

    def swap(self, chosen: Tensor) -> "TripletBatch":
        """The batch with p0 and p1 exchanged, and so the judgment, of the triplets that (N,) bool chooses."""
        row = chosen.view(-1, 1, 1, 1)
        p0, p1 = torch.where(row, self.p1, self.p0), torch.where(row, self.p0, self.p1)
        return self._replace(p0=p0, p1=p1, judgment=torch.where(chosen, 1 - self.judgment, self.judgment))


@dataclass(frozen=True, eq=False, kw_only=True)
class TripletTable(Table):
    """N triplets over M distinct images, see `Table`."""

    roles: ClassVar = ("ref", "p0", "p1")
    answer: ClassVar = "judgment"
    plural: ClassVar = "triplets"
    on_disk: ClassVar = "judge"

    ref: np.ndarray
    p0: np.ndarray
    p1: np.ndarray
    judgment: np.ndarray  # (N,) float32 in [0, 1], fraction that preferred p1


class TripletDataset(Dataset[TripletBatch]):
    """Triplets of a table as float tensors; a DataLoader gets whole batches through `__getitems__`.

    Args:
        table: the triplets. Files are checked and decoded here, once for each distinct image.
        size: side S of the square that images are resized to (PIL bilinear, antialiased).
        weight_by_votes: weight each triplet by its votes over the table's mean votes, instead of 1.

    Raises:
        ValueError: if images cannot be used, or votes are asked for and the table has none.
    """

    def __init__(self, table: TripletTable, size: int = 64, weight_by_votes: bool = False) -> None:
        weight = np.ones(len(table), np.float32)
        if weight_by_votes:
            if table.votes is None:
                raise ValueError("weight_by_votes=True needs votes, and these triplets carry none")
            weight = table.votes / table.votes.mean()
        self.table = table.open(size)
        self.images: Images = self.table.images  # type: ignore[assignment]
        self._items = torch.from_numpy(table.items())
        self._judgment = torch.from_numpy(table.judgment)
        self._weight = torch.from_numpy(weight)
        self._subset = torch.from_numpy(table.subset)

    def __len__(self) -> int:
        return len(self._judgment)

    def __getitem__(self, index: int) -> TripletBatch:
        """One triplet, without the batch axis."""
        return TripletBatch(*(column[0] for column in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> TripletBatch:
        """A batch of triplets, in the order of the indices."""
        rows = torch.as_tensor(indices)
        ref, p0, p1 = read_batch(self.images, self._items[:, rows].flatten()).chunk(3)
        return TripletBatch(ref, p0, p1, *self.judged(rows))

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judgment, weight and subset, (n,) each, of the triplets that an int64 tensor (n,) chooses."""
        return self._judgment[rows], self._weight[rows], self._subset[rows]
