"""2AFC triplets: the batch that models see, the table they are listed in, and the dataset between the two."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import Images, open_images, read_batch


class TripletBatch(NamedTuple):
    """N triplets and how people judged them."""

    ref: Tensor  # (N, 3, S, S) float32, RGB in [0, 1]
    p0: Tensor  # the same
    p1: Tensor  # the same
    judgment: Tensor  # (N,) float32, fraction of people who preferred p1
    weight: Tensor  # (N,) float32, weight in the loss: 1 unless votes weight it
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`; -1 if it is none of them


@dataclass(frozen=True, eq=False)
class TripletTable:
    """N triplets over M distinct images, which several triplets may share.

    `ref`, `p0`, `p1` are int64 arrays (N,) of indices into `images`; `images` is a list of files until `open`
    has checked them.
    """

    images: list[str] | Images
    ref: np.ndarray
    p0: np.ndarray
    p1: np.ndarray
    judgment: np.ndarray  # (N,) float32 in [0, 1], fraction that preferred p1
    subset: np.ndarray  # (N,) int64, index into `subsets`; -1 if it is none of them
    subsets: list[str]
    votes: np.ndarray | None = None  # (N,) float32, people asked; None if not recorded
    split: np.ndarray | None = None  # (N,) "train", "val" or "test" as the source says; None if it does not

    def __len__(self) -> int:
        return len(self.judgment)

    def open(self, size: int) -> "TripletTable":
        """The same table with its images checked, at size × size; raises what `open_images` does."""
        if isinstance(self.images, list):
            return replace(self, images=open_images(self.images, size))
        if self.images.shape[-1] != size:
            raise ValueError(f"size={size}, but the images are already open at {self.images.shape[-1]}")
        return self

    def take(self, rows: np.ndarray) -> "TripletTable":
        """The triplets that a mask (N,) or indices choose, over the same images."""
        columns = ("ref", "p0", "p1", "judgment", "subset", "votes", "split")
        chosen = {name: column[rows] for name in columns if (column := getattr(self, name)) is not None}
        return replace(self, **chosen)

    def with_subsets(self, subsets: list[str]) -> "TripletTable":
        """Number the subsets by another list of names; those it does not hold become -1."""
        number = np.array([subsets.index(name) if name in subsets else -1 for name in self.subsets] + [-1])
        return replace(self, subset=number[self.subset], subsets=subsets)  # a -1 before stays -1


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
        self.images: Images = table.open(size).images  # type: ignore[assignment]
        self.table = table
        self._items = torch.from_numpy(np.stack([table.ref, table.p0, table.p1]))
        self._judgment = torch.from_numpy(table.judgment)
        self._weight = torch.from_numpy(weight)
        self._subset = torch.from_numpy(table.subset)

    @property
    def in_memory(self) -> bool:
        """Whether the decoded images are kept, so that a batch is a gather."""
        return isinstance(self.images, Tensor)

    def __len__(self) -> int:
        return len(self._judgment)

    def __getitem__(self, index: int) -> TripletBatch:
        """One triplet, without the batch axis."""
        return TripletBatch(*(column[0] for column in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> TripletBatch:
        """A batch of triplets, in the order of the indices."""
        rows = torch.as_tensor(indices)
        ref, p0, p1 = read_batch(self.images, self._items[:, rows].flatten()).chunk(3)
        return TripletBatch(ref, p0, p1, self._judgment[rows], self._weight[rows], self._subset[rows])
