"""Batches of a dataset: shared among processes, and resumed within an epoch."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader

from perceptual.data.shuffle import EpochBatches

AHEAD = 1 << 29  # bytes of float32 images read ahead by threads; one batch is, however large
Batch = TypeVar("Batch")


class ReadAhead:
    """Batches that threads read ahead: decoders work without holding the GIL, and nothing is copied.

    Args:
        dataset: as `Batches` takes it, with `sizes` and `images_per_item`.
        sampler: indices of each batch.
    """

    def __init__(self, dataset: Any, sampler: Iterable[np.ndarray]) -> None:
        self.dataset, self.sampler = dataset, sampler

    def __iter__(self) -> Iterator[Any]:
        waiting: deque[tuple[int, Future[Any]]] = deque()
        size = 0
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            try:
                for indices in self.sampler:
                    new = self._bytes(indices)
                    while waiting and size + new > AHEAD:
                        done, future = waiting.popleft()
                        size -= done
                        yield future.result()
                    waiting.append((new, pool.submit(self.dataset.__getitems__, indices)))
                    size += new
                while waiting:
                    yield waiting.popleft()[1].result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _bytes(self, indices: np.ndarray) -> int:
        if self.dataset.sizes is None or not len(indices):
            return AHEAD // 8
        return int(12 * len(indices) * self.dataset.images_per_item * self.dataset.sizes[indices[0]].prod())


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
        self._loader: Iterable[Any] = DataLoader(
            dataset,
            batch_sampler=self.sampler,  # type: ignore[arg-type]  # of arrays, faster than lists
            num_workers=num_workers,
            collate_fn=_whole_batch,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            # a separate one, or each epoch would draw from the generator that dropout uses
            generator=torch.Generator().manual_seed(seed or 0),
        )
        if ahead:
            self._loader = ReadAhead(dataset, self.sampler)

    def __len__(self) -> int:
        """Batches per epoch, the same for every process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning calls this before it sets the epoch: nothing is read before the first batch
        epoch = self.sampler.epoch
        start = self._resume["batches"] if self._resume.get("epoch") == epoch else 0
        self._resume = {}
        self.sampler.start = start
        for index, batch in enumerate(self._loader, start):
            self._given = {"epoch": epoch, "batches": index + 1}
            if self.sampler.seed is not None and (weight := self.sampler.weight(index)) != 1:
                batch = batch._replace(weight=batch.weight * weight)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, the number of its batches that were given out, and which data they are of."""
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
    """The validation loaders: of one dataset its own, of several a list."""
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
