"""The items of each batch of an epoch, and each process's share of them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

PIXELS = 2**22  # of all images of a batch of one size: a few hundred MB of AlexNet's maps, 3 GB of VGG16's


class EpochBatches(Sampler[np.ndarray]):
    """Indices of the items of each batch, in order, or shuffled by `seed` and the epoch.

    A batch holds the same items however many processes there are: each process gets a contiguous share of
    every batch, shares differ by one item at most, and together they are the batch. The order depends on the
    seed and the epoch only, so that a resumed run repeats it.

    Args:
        items: number of items, N.
        batch_size: items per batch, over all processes; the last batch may have fewer.
        seed: of the shuffled order; None: in order.
        rank: of this process, from 0.
        processes: number of processes.
        sizes: (N, 2) height and width of the items' images, where a batch may hold only one size: the items
            of each size are shuffled and divided into batches, and these are shuffled; without a seed, the
            largest images come first. None: they all have one size.
        images: of an item. With `sizes`, a batch has at most `PIXELS` in all its images, but one item at
            least.
        places: give arrays (n, 3) instead, with two random numbers beside each index, to crop by.

    Attributes:
        epoch: number of the epoch; Lightning sets it by `set_epoch`.
        start: batches to skip at the start of the epoch.
        wanted: mask (N,) of items; batches without any of them are left out. None: all.

    Raises:
        ValueError: fewer items per batch than processes.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        processes: int = 1,
        sizes: np.ndarray | None = None,
        images: int = 1,
        places: bool = False,
    ) -> None:
        if batch_size < processes:
            raise ValueError(
                f"batch_size must be at least the number of processes, {processes}, got {batch_size}"
            )
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.rank, self.processes = rank, processes
        self.places = places
        self.epoch = self.start = 0
        self.wanted: np.ndarray | None = None
        # items that a batch is chosen from, and how many it may have
        self._groups = [(np.arange(items), batch_size)]
        if sizes is not None:
            distinct, which = np.unique(sizes, axis=0, return_inverse=True)
            most = np.maximum(PIXELS // (images * distinct.prod(1)), processes).clip(max=batch_size)
            members = [np.flatnonzero(which.reshape(-1) == group) for group in range(len(distinct))]
            largest_first = np.argsort(-distinct.prod(1), kind="stable")
            self._groups = [(members[group], int(most[group])) for group in largest_first]
        self._ends = self._split()

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[np.ndarray]:
        order, ends, places = self.order(), self._ends_of_epoch(), self._places()
        starts = np.append(0, ends[:-1])
        for batch in range(self.start, len(self)):
            first, last = self._share(int(starts[batch]), int(ends[batch]))
            if first == last and self.seed is not None:
                # every process must take part in a training step: this one gets an item of weight 0
                first, last = int(starts[batch]), int(starts[batch]) + 1
            rows = order[first:last]
            if self.wanted is None or self.wanted[rows].any():
                yield rows if places is None else np.column_stack([rows, places[rows]])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self.epoch = epoch

    def weight(self, batch: int) -> float:
        """Factor of this process's mean loss, so that the mean over processes is the mean over all items."""
        ends = self._ends_of_epoch()
        start, end = int(ends[batch - 1]) if batch else 0, int(ends[batch])
        first, last = self._share(start, end)
        return (last - first) * self.processes / (end - start)

    def order(self) -> np.ndarray:
        """Items in the order of the epoch's batches, (N,)."""
        order = np.concatenate(
            [rows[self._shuffled(len(rows), i)] for i, (rows, _) in enumerate(self._groups)]
        )
        if self.seed is None or len(self._groups) == 1:
            return order
        batches = np.split(order, self._ends[:-1])
        return np.concatenate([batches[batch] for batch in self._shuffled(len(batches), len(self._groups))])

    def _split(self) -> np.ndarray:
        """Where batches end, those of the first group first."""
        counts = [
            min(most, len(rows) - start) for rows, most in self._groups for start in range(0, len(rows), most)
        ]
        return np.cumsum(counts, dtype=np.int64)

    def _ends_of_epoch(self) -> np.ndarray:
        """Where the batches of this epoch end in its order."""
        if self.seed is None or len(self._groups) == 1:
            return self._ends
        counts = np.diff(self._ends, prepend=0)
        return np.cumsum(counts[self._shuffled(len(counts), len(self._groups))])

    def _share(self, start: int, end: int) -> tuple[int, int]:
        size = end - start
        first, last = (-(-size * rank // self.processes) for rank in (self.rank, self.rank + 1))
        return start + first, start + last

    def _shuffled(self, count: int, group: int) -> np.ndarray:
        """0 … count − 1 in the order of the epoch, another one for each group."""
        if self.seed is None:
            return np.arange(count)
        place = [self.seed, self.epoch, *([group] if group else [])]
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()

    def _places(self) -> np.ndarray | None:
        if not self.places:
            return None
        rng = np.random.default_rng([self.seed or 0, self.epoch, 1])
        return rng.integers(2**31, size=(self.items, 2))
