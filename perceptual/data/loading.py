"""DataLoaders of whole batches, for triplets and pairs alike."""

import os
from typing import Any

import torch
from torch.utils.data import DataLoader

from perceptual.data.images import ImageFiles
from perceptual.data.shuffle import EpochShuffle


def loader(
    dataset: Any,
    batch_size: int,
    num_workers: int | None,
    seed: int,
    shuffle: bool = False,
) -> DataLoader[Any]:
    """Batches in a fixed order, or shuffled anew each epoch by the seed.

    `num_workers` None means none where images sit in memory or in a store, else up to four.
    """
    if num_workers is None:
        num_workers = (
            min(4, os.cpu_count() or 1) if isinstance(getattr(dataset, "images", None), ImageFiles) else 0
        )
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochShuffle(dataset, seed) if shuffle else None,
        num_workers=num_workers,
        collate_fn=_whole_batch,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        # of its own, or each epoch would draw from the generator that dropout uses
        generator=torch.Generator().manual_seed(seed),
    )


def val_loaders(
    triplets: Any, pairs: Any | None, batch_size: int, num_workers: int | None
) -> DataLoader[Any] | list[DataLoader[Any]]:
    """What Lightning validates on: a loader of triplets, and where there are pairs, a second one of those."""
    loaders = [loader(dataset, batch_size, num_workers, seed=0) for dataset in (triplets, pairs) if dataset]
    return loaders if len(loaders) > 1 else loaders[0]


def at_least(name: str, value: int, lowest: int) -> None:
    """Raise ValueError for an argument below its lowest value."""
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest}, got {value}")


def _whole_batch(batch: Any) -> Any:
    return batch  # `__getitems__` delivers whole batches, there is nothing to collate
