"""Batches of a dataset: shared among processes, and resumed within an epoch."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Sampler

AHEAD = 1 << 29  # bytes of float32 images read ahead by threads; one batch is, however large
Batch = TypeVar("Batch")


def _read_ahead(dataset: Any, sampler: Iterable[np.ndarray]) -> Iterator[Any]:
    """Batches that threads read ahead: decoders work without holding the GIL, and nothing is copied.

    Args:
        dataset: as `Batches` takes it, with `sizes` and `images_per_item`.
        sampler: indices of each batch.
    """
    waiting: deque[tuple[int, Future[Any]]] = deque()
    size = 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for indices in sampler:
                new = AHEAD // 8
                if dataset.sizes is not None and len(indices):
                    new = int(12 * len(indices) * dataset.images_per_item * dataset.sizes[indices[0]].prod())
                while waiting and size + new > AHEAD:
                    done, future = waiting.popleft()
                    size -= done
                    yield future.result()
                waiting.append((new, pool.submit(dataset.__getitems__, indices)))
                size += new
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)


class Batches(Generic[Batch]):
    """A DataLoader of the batches of a dataset with `__getitems__`, as Lightning takes it.

    In a run of several processes, each gets its share of every batch, see `EpochBatches`, and training
    batches carry weights with which the mean gradient over the processes is that of the whole batch.
    `state_dict` holds the position within an epoch, for any number of processes.

    Args:
        dataset: N items; `dataset.__getitems__(indices)` is a batch. If it has `sizes`, a batch holds images
            of one size, and fewer where they are large, see `EpochBatches`; if it has `crop`, indices come
            with places to crop at.
        batch_size: items per batch, over all processes.
        num_workers: reading processes per training process.
        seed: of the order, another each epoch; None: in order.
        ahead: read batches ahead by threads, as many as fit `AHEAD`, instead of by processes.
        shared: among the processes that train together; False: this one gets all items.

    Raises:
        ValueError: fewer items per batch than processes.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        num_workers: int = 0,
        seed: int | None = None,
        shared: bool = True,
        ahead: bool = False,
    ) -> None:
        self.dataset, self.batch_size, self.num_workers = dataset, batch_size, num_workers
        # Lightning reads from one whether it shuffles, and sets the epoch of the other
        self.batch_sampler = self.sampler = EpochBatches(
            len(dataset),
            batch_size,
            seed,
            *(_process() if shared else (0, 1)),
            sizes=getattr(dataset, "sizes", None),
            images=getattr(dataset, "images_per_item", 1),
            places=getattr(dataset, "crop", None) is not None,
        )
        self._given = {"epoch": 0, "batches": 0}
        self._resume: dict[str, int] = {}
        self._ahead, self._loader = (
            ahead,
            DataLoader(
                dataset,
                batch_sampler=self.sampler,  # type: ignore[arg-type]  # of arrays, faster than lists
                num_workers=num_workers,
                collate_fn=_whole_batch,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=num_workers > 0,
                # a separate one, or each epoch would draw from the generator that dropout uses
                generator=torch.Generator().manual_seed(seed or 0),
            ),
        )

    def __len__(self) -> int:
        """Batches per epoch, the same for every process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning calls this before it sets the epoch: nothing is read before the first batch
        epoch = self.sampler.epoch
        start = self._resume["batches"] if self._resume.get("epoch") == epoch else 0
        self._resume = {}
        self.sampler.start = start
        batches = _read_ahead(self.dataset, self.sampler) if self._ahead else self._loader
        for index, batch in enumerate(batches, start):
            self._given = {"epoch": epoch, "batches": index + 1}
            if self.sampler.seed is not None and (weight := self.sampler.weight(index)) != 1:
                batch = batch._replace(weight=batch.weight * weight)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, the number of its batches that were given out, and which data they are of."""
        return {**self._given, **self._counted()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that were given out, in the epoch of the state.

        Raises:
            ValueError: the state is of other data, or of batches of another size or seed.
        """
        theirs = {key: state[key] for key in self._counted()}
        if theirs != self._counted():
            raise ValueError(
                f"the checkpoint was taken within an epoch of {_words(theirs)}, this run has "
                f"{_words(self._counted())}; resume with the same data, or from the end of an epoch"
            )
        self._resume = dict(state)

    def _counted(self) -> dict[str, int]:
        return {"items": len(self.dataset), "batch_size": self.batch_size, "seed": self.sampler.seed or 0}


def loader(
    dataset: Any, batch_size: int, num_workers: int | None, seed: int, shuffle: bool = False
) -> Batches[Any]:
    """Batches in a fixed order, or shuffled by the seed, in another order each epoch.

    `num_workers=None` means 0 where images are in memory or in a store, threads where they are files in their
    own sizes, else up to 4 processes.
    """
    ahead = False
    if num_workers is None:
        ahead = dataset.images.read_ahead
        num_workers = min(4, os.cpu_count() or 1) if dataset.images.decodes and not ahead else 0
    return Batches(dataset, batch_size, num_workers, seed if shuffle else None, ahead=ahead)


def val_loaders(
    datasets: Sequence[Any], batch_size: int, num_workers: int | None
) -> Batches[Any] | list[Batches[Any]]:
    """Return the validation loader of one dataset, or a list of those of several."""
    loaders = [loader(dataset, batch_size, num_workers, seed=0) for dataset in datasets]
    return loaders if len(loaders) > 1 else loaders[0]


def _process() -> tuple[int, int]:
    """Rank of this process among those that train together, and their number."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _words(counted: dict[str, int]) -> str:
    return f"{counted['items']:,} items in batches of {counted['batch_size']}, seed {counted['seed']}"


def _whole_batch(batch: Any) -> Any:
    return batch  # `__getitems__` delivers whole batches, there is nothing to collate


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
        """Return where batches end, those of the first group first."""
        counts = [
            min(most, len(rows) - start) for rows, most in self._groups for start in range(0, len(rows), most)
        ]
        return np.cumsum(counts, dtype=np.int64)

    def _ends_of_epoch(self) -> np.ndarray:
        """Return where the batches of this epoch end in its order."""
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
