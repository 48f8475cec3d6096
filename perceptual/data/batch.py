"""Batches of judged items as float tensors, and the dataset that gives them."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data import augmentation
from perceptual.data.augmentation import replace_half
from perceptual.data.images import as_floats, crops
from perceptual.data.kinds import PAIR, Kind
from perceptual.data.loading import PIXELS
from perceptual.data.table import Table

CHUNK = 64  # pairs compared at once

# (x, y) → (N,): distances of images (N, 3, H, W), RGB in [0, 1]; larger = more different
Distance = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """N judged items, over M images that each go through a backbone once."""

    kind: Kind
    images: Tensor  # (M, 3, H, W) float32, RGB in [0, 1]
    # (roles, N) int64, rows of `images`, of which many recur; None: M is roles · N, role after role
    items: Tensor | None
    answer: Tensor  # (N,) or (N, roles) float32, as `kind` says
    weight: Tensor  # (N,) float32, weight in the loss: 1 unless votes weight it
    subset: Tensor  # (N,) int64, number of the subset; -1 if it is none of the data module's
    mask: Tensor | None = None  # (N, 1, H, W) float32 in [0, 1], what counts; None: all

    def role(self, role: str) -> Tensor:
        """Return the images of one role, (N, 3, H, W)."""
        number = self.kind.roles.index(role)
        if self.items is None:
            return self.images.view(len(self.kind.roles), -1, *self.images.shape[1:])[number]
        return self.images[self.items[number]]

    def shown(self, roles: Tensor) -> Tensor:
        """Return the images of each item in its own roles, (N, K) int64, as (N·K, 3, H, W)."""
        return self.images[self._items.T.gather(1, roles).flatten()]

    def showing(self, roles: Tensor, images: Tensor) -> "Batch":
        """Return the batch with other images in roles of each item, in the order of `shown`."""
        if self.items is None:  # the images stay role after role
            rows = self._items.T.gather(1, roles).flatten()
            return self._replace(images=self.images.index_copy(0, rows, images))
        added = len(self.images) + torch.arange(len(images), device=images.device)
        items = self.items.T.scatter(1, roles, added.view_as(roles)).T
        return self._replace(images=torch.cat([self.images, images]), items=items)

    @property
    def _items(self) -> Tensor:
        """Rows of `images`, (roles, N)."""
        if self.items is not None:
            return self.items
        return torch.arange(len(self.images), device=self.images.device).view(len(self.kind.roles), -1)

    def distances(self, distance: Distance) -> tuple[Tensor, ...]:
        """Distances that the answers are about, (N,) each: (d0, d1) of triplets, else (distance,).

        Args:
            distance: (x, y) → (N,). Its methods `among(images, first, second) → (P,)`, for images that recur,
                and `triplet(ref, p0, p1) → (d0, d1)` are called where there are some; LPIPS's pass each image
                through the network once.
        """
        if self.items is not None and hasattr(distance, "among"):
            first, second = (self.items[list(roles)].flatten() for roles in self.kind.pairs())
            found: Tensor = distance.among(self.images, first, second)
            return found.chunk(len(self.kind.compared))
        images = {role: self.role(role) for role in self.kind.roles}
        masked: dict[str, Any] = {} if self.mask is None else {"mask": self.mask}
        if self.kind.roles == ("ref", "p0", "p1") and hasattr(distance, "triplet"):
            return tuple(distance.triplet(**images, **masked))
        return tuple(distance(images[x], images[y], **masked) for x, y in self.kind.compared)

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move the batch to another device, as `Tensor.to`."""
        items = None if self.items is None else self.items.to(*args, **kwargs)
        columns = (column.to(*args, **kwargs) for column in self[3:] if column is not None)
        return Batch(self.kind, self.images.to(*args, **kwargs), items, *columns)

    def pieces(self, pixels: int) -> list["Batch"]:
        """Split the batch into parts whose images have at most so many pixels, or are of one item."""
        if self.items is not None:
            return [self]
        roles = len(self.kind.roles)
        most = max(pixels // (roles * self.images.shape[2:].numel()), 1)
        images = self.images.view(roles, -1, *self.images.shape[1:]).split(most, dim=1)
        columns = zip(*(column.split(most) for column in self[3:] if column is not None), strict=True)
        return [
            Batch(self.kind, part.flatten(0, 1), None, *column)
            for part, column in zip(images, columns, strict=True)
        ]

    def flip(self, draws: Tensor) -> "Batch":
        """Mirror all images of the items with draws (N, …) < ½; all images that recur, by the first draw."""
        return self._moved(augmentation.mirror, draws)

    def crop(self, draws: Tensor) -> "Batch":
        """Crop all images of an item alike, by draws (N, 3), see `augmentation.crop`."""
        return self._moved(augmentation.crop, draws)

    def _moved(self, move: Callable[[Tensor, Tensor], Tensor], draws: Tensor) -> "Batch":
        """Move all images of an item alike, and its mask with them."""
        mask = None if self.mask is None else move(self.mask, draws)
        return self._replace(images=move(self.images, self._of_images(draws)), mask=mask)

    def light(self, draws: Tensor) -> "Batch":
        """Relight all images of an item alike, by draws (N, 4), see `augmentation.light`."""
        return self._replace(images=augmentation.light(self.images, self._of_images(draws)))

    def swap(self, draws: Tensor) -> "Batch":
        """Exchange p0 and p1, and so the answer, of the items with draws (N, …) < ½."""
        assert self.kind.exchanged is not None
        items = self._items
        first, second = (self.kind.roles.index(role) for role in self.kind.exchanged)
        order = list(range(len(items)))
        order[first], order[second] = second, first
        items = replace_half(items.T, items[order].T, draws).T
        answer = replace_half(self.answer, 1 - self.answer, draws)
        if self.items is None:  # the images move, so that they stay role after role
            return self._replace(images=self.images[items.flatten()], answer=answer)
        return self._replace(items=items, answer=answer)

    def _of_images(self, draws: Tensor) -> Tensor:
        """Return the draws of each image: those of its item, or the first for all where images recur."""
        return draws[:1] if self.items is not None else draws.repeat(len(self.kind.roles), 1)


class JudgedDataset(Dataset[Batch]):
    """Items of a table as float tensors; a DataLoader gets whole batches through `__getitems__`.

    Args:
        table: the items, open. Where their images keep their sizes, a batch holds images of one size.
        weight_by_votes: weight each item by its votes over the table's mean votes, instead of 1.
        crop: side of squares cropped at random, at the same place of all images of an item. Their places
            come with the indices, see `EpochBatches`.

    Attributes:
        sizes: (N, 2) height and width of the images of each item; None if all batches have one size.

    Raises:
        ValueError: images of an item differ in size or are smaller than `crop`; or `weight_by_votes` and the
            table has no votes.
    """

    def __init__(self, table: Table, weight_by_votes: bool = False, crop: int | None = None) -> None:
        weight = np.ones(len(table), np.float32)
        if weight_by_votes:
            if table.votes is None:
                raise ValueError(f"weight_by_votes=True needs votes, but these {table.kind.plural} have none")
            weight = table.votes / table.votes.mean()
        self.table, self.images = table, table.images
        self.sizes, self.crop, self.shares_images = table.sizes(crop), crop, False
        self.items = torch.from_numpy(table.items)
        self._read = torch.from_numpy(table.read)  # those and the masks
        self._columns = tuple(map(torch.from_numpy, (table.answer, weight, table.subset)))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def images_per_item(self) -> int:
        """Number of images of an item, its mask among them."""
        return len(self._read)

    def __getitem__(self, index: int) -> Batch:
        """A batch of one item."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """A batch of items, in the order of the indices (n,), or of (n, 3) with places to crop at."""
        rows, place, items, mask = torch.as_tensor(indices), None, None, None
        if rows.ndim == 2:
            rows, place = rows[:, 0], rows[:, 1:]
        if self.crop is not None and place is not None:
            chosen, places = self._read[:, rows].flatten(), place.repeat(len(self._read), 1)
            images = crops(self.images, chosen, places, self.crop)
        elif self.shares_images:
            distinct, items = self.items[:, rows].unique(return_inverse=True)
            images = as_floats(self.images.batch(distinct))
        else:
            images = as_floats(self.images.batch(self._read[:, rows].flatten()))
        if self.table.mask is not None:
            images, mask = images.split([len(self.items) * len(rows), len(rows)])
            mask = mask.amax(1, keepdim=True)
        return Batch(self.table.kind, images, items, *self.judged(rows), mask)

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer, weight and subset, (n,) each, of the items that an int64 tensor (n,) chooses."""
        answer, weight, subset = (column[rows] for column in self._columns)
        return answer, weight, subset

    def pairs(self) -> "JudgedDataset":
        """Return the pairs of images that the items compare, once each, see `Table.distinct_pairs`."""
        pairs = self.table.distinct_pairs[0]
        nothing = np.zeros(pairs.shape[1], np.float32)
        subset = np.zeros(pairs.shape[1], np.int64)
        return JudgedDataset(
            Table(kind=PAIR, items=pairs, answer=nothing, subset=subset, subsets=[""], opened=self.images)
        )

    def sharing(self, batch_size: int) -> "JudgedDataset":
        """Return a copy whose batches hold each image once, if one would hold each twice on average."""
        distinct, shown = len(self.items.unique()), len(self.items) * min(batch_size, len(self))
        masked = self.table.mask is not None
        if self.sizes is not None or self.crop is not None or masked or 2 * distinct > shown:
            return self
        shared = copy(self)
        shared.shares_images = True
        return shared


def chunks_of_pairs(pairs: JudgedDataset, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
    """Pairs (n, 2) of images to compare at once: `CHUNK`, or fewer of one size where they keep theirs."""
    rows = pairs.items.T[start:stop]
    if pairs.sizes is None:
        yield from rows.split(CHUNK)
        return
    sizes = pairs.sizes[start:stop]
    ends = np.append(np.flatnonzero((sizes[1:] != sizes[:-1]).any(1)) + 1, len(rows))
    for first, last in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
        if last > first:
            count = max(1, min(CHUNK, PIXELS // (2 * int(sizes[first].prod()))))
            yield from rows[first:last].split(count)
