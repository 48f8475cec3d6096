"""Which items each batch of an epoch holds, and which of them are a process's own."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


class EpochBatches(Sampler[np.ndarray]):
    """Indices of the items of each batch, in order or shuffled anew each epoch by `seed`.

    A batch holds the same items however many processes there are: each process gets a contiguous share of
    every batch, shares differ by one item at most, and together they are the batch. The order depends on the
    seed and the epoch only, so that a resumed run repeats it.

    Args:
        items: number of items, N.
        batch_size: items a batch, of all processes together; the last batch has what is left.
        seed: of the shuffled order; None: in order.
        rank: this process, counted from 0.
        processes: their number.

    Attributes:
        epoch: what the order is of; Lightning sets it by `set_epoch`.
        start: batches to leave out at the start of the epoch.

    Raises:
        ValueError: fewer items a batch than processes.
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
                # a process cannot sit a training step out: it takes part with an item of weight 0
                first, last = batch * self.batch_size, batch * self.batch_size + 1
            yield order[first:last]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self.epoch = epoch

    def weight(self, batch: int) -> float:
        """Factor of the loss by which the mean over processes of their means is the mean over all items."""
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
