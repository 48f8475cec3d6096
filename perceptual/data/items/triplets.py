"""2AFC triplets: their batches, table and dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import Images, read_batch, read_crops
from perceptual.data.items.augmentation import crop, light, mirror, replace_half
from perceptual.data.items.distance import Distance
from perceptual.data.items.table import Table

Batch = TypeVar("Batch", "TripletBatch", "SharedTripletBatch")


class TripletBatch(NamedTuple):
    """N triplets and their judgments."""

    ref: Tensor  # (N, 3, H, W) float32, RGB in [0, 1]
    p0: Tensor  # the same
    p1: Tensor  # the same
    judgment: Tensor  # (N,) float32, fraction of people who preferred p1
    weight: Tensor  # (N,) float32, weight in the loss: 1 unless votes weight it
    subset: Tensor  # (N,) int64, index into the datamodule's `subsets`; -1 if it is none of them

    def distances(self, distance: Distance) -> tuple[Tensor, Tensor]:
        """(d0, d1), each (N,): distances of p0 and of p1 from ref.

        Args:
            distance: (x, y) → (N,). Its method `triplet(ref, p0, p1) → (d0, d1)` is called where there is
                one; LPIPS's passes ref through the network once.
        """
        if hasattr(distance, "triplet"):
            d0, d1 = distance.triplet(self.ref, self.p0, self.p1)
            return d0, d1
        return distance(self.ref, self.p0), distance(self.ref, self.p1)

    def to(self, *args: Any, **kwargs: Any) -> "TripletBatch":
        """The batch on another device, as `Tensor.to`."""
        return TripletBatch(*(column.to(*args, **kwargs) for column in self))

    def flip(self, draws: Tensor) -> "TripletBatch":
        """The batch with all three images mirrored, left to right, of the triplets with draws (N, …) < ½."""
        return self._changed(lambda images: mirror(images, draws))

    def crop(self, draws: Tensor) -> "TripletBatch":
        """The batch with all three images of a triplet cropped alike, by draws (N, 3), see `crop`."""
        return self._changed(lambda images: crop(images, draws))

    def light(self, draws: Tensor) -> "TripletBatch":
        """The batch with all three images of a triplet relit alike, by draws (N, 4), see `light`."""
        return self._changed(lambda images: light(images, draws))

    def swap(self, draws: Tensor) -> "TripletBatch":
        """The batch with p0 and p1 exchanged, and so the judgment, of the triplets with draws (N, …) < ½."""
        return _swapped(self, draws)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "TripletBatch":
        ref, p0, p1 = map(change, self[:3])
        return self._replace(ref=ref, p0=p0, p1=p1)


class SharedTripletBatch(NamedTuple):
    """N triplets of M distinct images, each of which goes through the backbone once."""

    images: Tensor  # (M, 3, S, S) float32, RGB in [0, 1]
    ref: Tensor  # (N,) int64, rows of `images`
    p0: Tensor  # the same
    p1: Tensor  # the same
    judgment: Tensor  # as in TripletBatch
    weight: Tensor
    subset: Tensor

    def distances(self, distance: Distance) -> tuple[Tensor, Tensor]:
        """(d0, d1), each (N,): distances of p0 and of p1 from ref.

        Args:
            distance: (x, y) → (N,). Its method `among(images, first, second) → (P,)` is called where there
                is one; LPIPS's passes each image through the network once. Any other distance compares the
                triplets as `apart` gives them.
        """
        if hasattr(distance, "among"):
            d0, d1 = distance.among(self.images, self.ref.repeat(2), torch.cat([self.p0, self.p1])).chunk(2)
            return d0, d1
        return self.apart().distances(distance)

    def to(self, *args: Any, **kwargs: Any) -> "SharedTripletBatch":
        """The batch on another device, as `Tensor.to`."""
        return SharedTripletBatch(*(column.to(*args, **kwargs) for column in self))

    def apart(self) -> TripletBatch:
        """The same triplets, each with its own copy of the images."""
        ref, p0, p1 = (self.images[rows] for rows in (self.ref, self.p0, self.p1))
        return TripletBatch(ref, p0, p1, *self[4:])

    def flip(self, draws: Tensor) -> "SharedTripletBatch":
        """The batch with all images mirrored, left to right, if the first of draws (N, …) is < ½."""
        return self._replace(images=mirror(self.images, draws[:1]))

    def crop(self, draws: Tensor) -> "SharedTripletBatch":
        """The batch with all images cropped alike, by the first of draws (N, 3), see `crop`."""
        return self._replace(images=crop(self.images, draws[:1]))

    def light(self, draws: Tensor) -> "SharedTripletBatch":
        """The batch with all images relit alike, by the first of draws (N, 4), see `light`."""
        return self._replace(images=light(self.images, draws[:1]))

    def swap(self, draws: Tensor) -> "SharedTripletBatch":
        """The batch with p0 and p1 exchanged, and so the judgment, of the triplets with draws (N, …) < ½."""
        return _swapped(self, draws)


def _swapped(batch: Batch, draws: Tensor) -> Batch:
    return batch._replace(
        p0=replace_half(batch.p0, batch.p1, draws),
        p1=replace_half(batch.p1, batch.p0, draws),
        judgment=replace_half(batch.judgment, 1 - batch.judgment, draws),
    )


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
        size: side S of the square that images are resized to (PIL bilinear, antialiased); None: they keep
            their sizes, and a batch holds images of one size.
        weight_by_votes: weight each triplet by its votes over the table's mean votes, instead of 1.
        shorter_side: without `size`, pixels to resize the shorter side of each image to.
        crop: side of squares cropped at random, at the same place of all images of a triplet. Their places
            come with the indices, see `EpochBatches`.

    Attributes:
        sizes: (N, 2) height and width of the images of each triplet; None if all batches have one size.

    Raises:
        ValueError: images cannot be used, or `weight_by_votes` and the table has no votes.
    """

    images_per_item = 3

    def __init__(
        self,
        table: TripletTable,
        size: int | None = 64,
        weight_by_votes: bool = False,
        shorter_side: int | None = None,
        crop: int | None = None,
    ) -> None:
        weight = np.ones(len(table), np.float32)
        if weight_by_votes:
            if table.votes is None:
                raise ValueError("weight_by_votes=True needs votes, but these triplets have none")
            weight = table.votes / table.votes.mean()
        self.table = table.open(size, shorter_side)
        self.images: Images = self.table.images  # type: ignore[assignment]
        self.sizes, self.crop = self.table.sizes(crop), crop
        self.items = torch.from_numpy(table.items())
        self._judgment = torch.from_numpy(table.judgment)
        self._weight = torch.from_numpy(weight)
        self._subset = torch.from_numpy(table.subset)

    def __len__(self) -> int:
        return len(self._judgment)

    def __getitem__(self, index: int) -> TripletBatch:
        """One triplet, without the batch axis."""
        return TripletBatch(*(column[0] for column in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> TripletBatch:
        """A batch of triplets, in the order of the indices (n,), or of (n, 3) with places to crop at."""
        rows = torch.as_tensor(indices)
        if rows.ndim == 2 and self.crop is not None:
            places = rows[:, 1:].repeat(3, 1)
            images = read_crops(self.images, self.items[:, rows[:, 0]].flatten(), places, self.crop)
            rows = rows[:, 0]
        else:
            images = read_batch(self.images, self.items[:, rows].flatten())
        ref, p0, p1 = images.chunk(3)
        return TripletBatch(ref, p0, p1, *self.judged(rows))

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judgment, weight and subset, (n,) each, of the triplets that an int64 tensor (n,) chooses."""
        return self._judgment[rows], self._weight[rows], self._subset[rows]

    def recurs(self, batch_size: int) -> bool:
        """Whether a batch would hold each of its images at least twice, on average, and all of one size."""
        if self.sizes is not None or self.crop is not None:
            return False
        distinct = len(self.items.unique())
        return 2 * distinct <= len(self.items) * min(batch_size, len(self))


class SharedTriplets(Dataset[SharedTripletBatch]):
    """The same triplets in batches that hold each image once, for judgments of few images in many triplets.

    Args:
        triplets: the dataset to read from.
    """

    def __init__(self, triplets: TripletDataset) -> None:
        self.triplets = triplets
        self.images, self.sizes = triplets.images, triplets.sizes
        self.images_per_item = triplets.images_per_item

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitems__(self, indices: Sequence[int]) -> SharedTripletBatch:
        """A batch of triplets, in the order of the indices."""
        rows = torch.as_tensor(indices)
        distinct, place = self.triplets.items[:, rows].unique(return_inverse=True)
        images = read_batch(self.images, distinct)
        ref, p0, p1 = place
        return SharedTripletBatch(images, ref, p0, p1, *self.triplets.judged(rows))
