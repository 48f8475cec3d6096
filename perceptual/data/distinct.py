"""The distinct pairs of images among triplets: where images recur, far fewer than the triplets have."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perceptual.data.images import Images, read_batch
from perceptual.data.triplets import TripletDataset


class ImagePair(NamedTuple):
    """N pairs of images."""

    p0: Tensor  # (N, 3, S, S) float32, RGB in [0, 1]
    p1: Tensor  # the same


class DistinctPairs(Dataset[ImagePair]):
    """Every (ref, p0) and (ref, p1) of some triplets, once each, sorted by reference.

    A DataLoader gets whole batches through `__getitems__`.

    Args:
        triplets: N triplets.

    Attributes:
        pairs: (P, 2) int64, indices into `images`.
        which: (2, N) int64, the rows of `pairs` that are (ref, p0) and (ref, p1) of each triplet.
    """

    def __init__(self, triplets: TripletDataset) -> None:
        table = triplets.table
        both = np.stack([np.tile(table.ref, 2), np.concatenate([table.p0, table.p1])], axis=1)
        pairs, which = np.unique(both, axis=0, return_inverse=True)
        self.images: Images = triplets.images
        self.pairs = torch.from_numpy(pairs)
        self.which = which.reshape(2, -1)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> ImagePair:
        """One pair, without the batch axis."""
        return ImagePair(*(images[0] for images in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> ImagePair:
        """A batch of pairs, in the order of the indices."""
        first, second = self.pairs[torch.as_tensor(indices)].T
        return ImagePair(read_batch(self.images, first), read_batch(self.images, second))

    def loader(self, batch_size: int) -> DataLoader[ImagePair]:
        """Batches of pairs, in order."""
        return DataLoader(self, batch_size, collate_fn=lambda batch: batch)

    def to_triplets(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(d0, d1), (N,) each in the order of the triplets, from the distance of each pair."""
        d0, d1 = distance[self.which]
        return d0, d1
