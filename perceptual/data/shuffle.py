"""The items of each batch of an epoch, and each process's share of them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


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

    Attributes:
        epoch: number of the epoch; Lightning sets it by `set_epoch`.
        start: batches to skip at the start of the epoch.

    Raises:
        ValueError: fewer items per batch than processes.
    """

    def __init__(
        self, items: int, batch_size: int, seed: int | None = None, rank: int = 0, processes: int = 1
    ) -> None:
        if batch_size < processes:
            raise ValueError(
                f"batch_size must be at least the number of processes, {processes}, got {batch_size}"
            )
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.rank, self.processes = rank, processes
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-self.items // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self._order()
        for batch in range(self.start, len(self)):
            first, last = self._share(batch)
            if first == last and self.seed is not None:
                # every process must take part in a training step: this one gets an item of weight 0
                first, last = batch * self.batch_size, batch * self.batch_size + 1
            yield order[first:last]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self.epoch = epoch

    def weight(self, batch: int) -> float:
        """Factor of this process's mean loss, so that the mean over processes is the mean over all items."""
        size = min(self.batch_size, self.items - batch * self.batch_size)
        first, last = self._share(batch)
        return (last - first) * self.processes / size

    def _share(self, batch: int) -> tuple[int, int]:
        start = batch * self.batch_size
        size = min(self.batch_size, self.items - start)
        first, last = (-(-size * rank // self.processes) for rank in (self.rank, self.rank + 1))
        return start + first, start + last

    def _order(self) -> np.ndarray:
        if self.seed is None:
            return np.arange(self.items)
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        return torch.randperm(self.items, generator=torch.Generator().manual_seed(seed)).numpy()
