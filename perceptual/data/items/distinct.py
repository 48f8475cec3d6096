"""The distinct pairs of images among judged items: far fewer than the items where images recur."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.images import Images, read_batch, sizes_of
from perceptual.data.items.distance import Distance
from perceptual.data.items.opinions import OpinionDataset
from perceptual.data.items.pairs import PairDataset
from perceptual.data.items.triplets import TripletDataset
from perceptual.data.loading import Batches
from perceptual.data.native import NativeFiles, NativeImages


class ImagePair(NamedTuple):
    """N pairs of images."""

    p0: Tensor  # (N, 3, H, W) float32, RGB in [0, 1]
    p1: Tensor  # the same

    def distances(self, distance: Distance) -> tuple[Tensor]:
        """(d,), the distance of each pair, (N,), by a distance (x, y) → (N,)."""
        return (distance(self.p0, self.p1),)

    def to(self, *args: Any, **kwargs: Any) -> "ImagePair":
        """The pairs on another device, as `Tensor.to`."""
        return ImagePair(*(images.to(*args, **kwargs) for images in self))


class DistinctPairs(Dataset[ImagePair]):
    """Every pair of images that judged items compare, once each, sorted by its first image.

    Triplets compare (ref, p0) and (ref, p1); JND pairs and rated images are one pair each. A
    DataLoader gets whole batches through `__getitems__`.

    Args:
        judged: N items.

    Attributes:
        pairs: (P, 2) int64, indices into `images`.
        sizes: (P, 2) height and width of the images of each pair, where they keep theirs; else None.
        which: (K, N) int64, the rows of `pairs` that each item compares: two for triplets, else one.
    """

    images_per_item = 2

    def __init__(self, judged: TripletDataset | PairDataset | OpinionDataset) -> None:
        first, *others = judged.table.items()
        compared = np.stack([np.tile(first, len(others)), np.concatenate(others)], axis=1)
        pairs, which = np.unique(compared, axis=0, return_inverse=True)
        self.images: Images = judged.images
        native = isinstance(judged.images, (NativeImages, NativeFiles))
        self.sizes = sizes_of(judged.images)[pairs[:, 0]] if native else None
        self.pairs = torch.from_numpy(pairs)
        self.which = which.reshape(len(others), -1)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> ImagePair:
        """One pair, without the batch axis."""
        return ImagePair(*(images[0] for images in self.__getitems__([index])))

    def __getitems__(self, indices: Sequence[int]) -> ImagePair:
        """A batch of pairs, in the order of the indices."""
        first, second = self.pairs[torch.as_tensor(indices)].T
        return ImagePair(read_batch(self.images, first), read_batch(self.images, second))

    def loader(self, batch_size: int) -> Batches[ImagePair]:
        """Batches of pairs, in order; those of images in their own sizes by size, see `EpochBatches`."""
        return Batches(self, batch_size, shared=False, ahead=isinstance(self.images, NativeFiles))

    def to_items(self, distance: np.ndarray) -> list[np.ndarray]:
        """(d0, d1) of triplets, else (distance,), (N,) each in the items' order, from that of each pair."""
        return list(distance[self.which])
