"""Opinions: distorted images, each rated against its reference; their batches, table and dataset.

A rating is kept as a difference mean opinion score (DMOS), larger = worse; a mean opinion score (MOS), where
larger is better, is kept as its negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import Images, read_batch
from perceptual.data.items.distance import Distance
from perceptual.data.items.table import Table

Larger = Literal["better", "worse"]
LARGER_IS: tuple[Larger, ...] = get_args(Larger)


class OpinionBatch(NamedTuple):
    """N distorted images with their references, and how people rated them."""

    p0: Tensor  # (N, 3, H, W) float32, RGB in [0, 1], the references
    p1: Tensor  # the same, the distorted images
    score: Tensor  # (N,) float32, larger = worse, on the scale of the study
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`

    def distances(self, distance: Distance) -> tuple[Tensor]:
        """(d,), the distance of each image from its reference, (N,), by a distance (x, y) → (N,)."""
        return (distance(self.p0, self.p1),)

    def to(self, *args: Any, **kwargs: Any) -> "OpinionBatch":
        """The batch on another device, as `Tensor.to`."""
        return OpinionBatch(*(column.to(*args, **kwargs) for column in self))


@dataclass(frozen=True, eq=False, kw_only=True)
class OpinionTable(Table):
    """N rated images over M distinct images, see `Table`."""

    roles: ClassVar = ("ref", "dist")
    answer: ClassVar = "score"
    plural: ClassVar = "rated images"
    on_disk: ClassVar = "score"

    ref: np.ndarray
    dist: np.ndarray
    score: np.ndarray  # (N,) float32, larger = worse: DMOS, or −MOS


class OpinionDataset(Dataset[OpinionBatch]):
    """Rated images of a table as float tensors; a DataLoader gets whole batches through `__getitems__`.

    Args:
        table: the rated images. Files are checked and decoded here, once for each distinct image.
        size: side S of the square that images are resized to (PIL bilinear, antialiased); None: they keep
            their sizes, and a batch holds images of one size.
        shorter_side: without `size`, pixels to resize the shorter side of each image to.

    Raises:
        ValueError: images cannot be used.
    """

    images_per_item = 2

    def __init__(self, table: OpinionTable, size: int | None, shorter_side: int | None = None) -> None:
        self.table = table.open(size, shorter_side)
        self.images: Images = self.table.images  # type: ignore[assignment]
        self.sizes = self.table.sizes()
        self._items = torch.from_numpy(table.items())
        self._score = torch.from_numpy(table.score)
        self._subset = torch.from_numpy(table.subset)

    def __len__(self) -> int:
        return len(self._score)

    def __getitem__(self, index: int) -> OpinionBatch:
        """One rated image, without the batch axis."""
        return OpinionBatch(*(column[0] for column in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> OpinionBatch:
        """A batch of rated images, in the order of the indices."""
        rows = torch.as_tensor(indices)
        ref, dist = read_batch(self.images, self._items[:, rows].flatten()).chunk(2)
        return OpinionBatch(ref, dist, self._score[rows], self._subset[rows])
