"""Base of the DataModules of 2AFC triplets."""

from functools import cached_property
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl

from perceptual.data.items.pairs import PairDataset
from perceptual.data.items.triplets import (
    SharedTripletBatch,
    SharedTriplets,
    TripletBatch,
    TripletDataset,
    TripletTable,
)
from perceptual.data.loading import Batches, at_least, check_resolution, loader, val_loaders
from perceptual.data.modules.jnd import JNDDataModule


class TwoAFCDataModule(pl.LightningDataModule):
    """Triplets for training and validation; a subclass reads them.

    After `setup`, `subsets` names the validation subsets that `TripletBatch.subset` counts, and `jnd_subsets`
    those of the JND pairs, if any are scored in validation.

    Where images recur so often that a batch would hold each at least twice, on average, batches are
    `SharedTripletBatch`es, which hold each image once.

    Args:
        size: side S of the square patches; None: images keep their sizes, and a batch holds those of one
            size.
        batch_size: triplets per batch.
        num_workers: processes that read images; None: 0 where the images are in memory or in a store, else up
            to 4.
        weight_by_votes: weight the training loss by the number of votes (mean 1 over the set).
        seed: of the order of the training triplets.
        jnd: JND pairs to score in validation, as the root of `JNDDataModule`; None: no pairs.
        shorter_side: without `size`, pixels to resize the shorter side of each image to, keeping its shape.
        crop: side of squares to train on, cropped at random, at the same place of the images of a triplet.

    Raises:
        ValueError: an argument is out of range.
    """

    subsets: list[str]

    def __init__(
        self,
        size: int | None = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
        jnd: str | None = None,
        shorter_side: int | None = None,
        crop: int | None = None,
    ) -> None:
        super().__init__()
        check_resolution(size, shorter_side, crop)
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", 0 if num_workers is None else num_workers, 0)
        at_least("seed", seed, 0)
        self.size = size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.weight_by_votes = weight_by_votes
        self.seed = seed
        self.jnd = jnd
        self.shorter_side = shorter_side
        self.crop = crop
        self.jnd_set: PairDataset | None = None
        self.jnd_subsets: list[str] = []
        self.train_set: TripletDataset | None = None
        self.val_set: TripletDataset | None = None

    def read_train(self) -> TripletTable:
        """Training triplets."""
        raise NotImplementedError

    def read_val(self) -> TripletTable:
        """Validation triplets."""
        raise NotImplementedError

    def source(self) -> str:
        """Where the triplets come from, for `describe`."""
        raise NotImplementedError

    def how_split(self) -> str:
        """How training and validation triplets are separated, for `describe`."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read and check the triplets of a stage: all for "fit" or None, else those for validation."""
        if self.val_set is None:
            val = self.read_val()
            self.subsets = [val.subsets[i] for i in np.unique(val.subset)]
            self.val_set = TripletDataset(
                val.with_subsets(self.subsets), self.size, shorter_side=self.shorter_side
            )
            self._read_jnd()
        if self.train_set is None and stage in (None, "fit"):
            train = self.read_train().with_subsets(self.subsets)
            self.train_set = TripletDataset(
                train, self.size, self.weight_by_votes, self.shorter_side, self.crop
            )

    def train_dataloader(self) -> Batches[TripletBatch | SharedTripletBatch]:
        """Training batches, in a new order each epoch."""
        if self.train_set is None:
            raise RuntimeError("call setup('fit') before train_dataloader()")
        train_set = self._shared(self.train_set)
        return loader(train_set, self.batch_size, self.num_workers, self.seed, shuffle=True)

    def val_dataloader(self) -> Batches[TripletBatch | SharedTripletBatch] | list[Batches[Any]]:
        """Validation batches of all subsets, in a fixed order; a second loader, if there are JND pairs."""
        if self.val_set is None:
            raise RuntimeError("call setup() before val_dataloader()")
        return val_loaders(self._shared(self.val_set), self.jnd_set, self.batch_size, self.num_workers)

    def describe(self) -> str:
        """The number of triplets and how they are split, in one line; call `setup` first."""
        if self.val_set is None:
            raise RuntimeError("call setup() before describe()")
        train = f"{len(self.train_set):,} training and " if self.train_set is not None else ""
        pairs = f"; {len(self.jnd_set):,} JND pairs" if self.jnd_set is not None else ""
        return f"{self.source()}: {train}{len(self.val_set):,} validation triplets, {self.how_split()}{pairs}"

    def fingerprint(self, side: Literal["train", "val"] = "val") -> str:
        """SHA-256, in hex, of the triplets of one side, see `Table.fingerprint`; call `setup` first.

        Two data sets with the same fingerprint give the same scores. Images in memory are hashed when this is
        called, at about 1 GB/s; the hashes of others are on record.
        """
        dataset = self.val_set if side == "val" else self.train_set
        if dataset is None:
            raise RuntimeError(f"call setup() before fingerprint({side!r})")
        return dataset.table.fingerprint()

    @cached_property
    def sides(self) -> dict[str, dict[str, Any]]:
        """Fingerprint and number of the triplets of both sides, which a checkpoint holds; after `setup`."""
        return {
            side: {"sha256": dataset.table.fingerprint(), "items": len(dataset)}
            for side, dataset in (("train", self.train_set), ("val", self.val_set))
            if dataset is not None
        }

    def _shared(self, triplets: TripletDataset) -> TripletDataset | SharedTriplets:
        return SharedTriplets(triplets) if triplets.recurs(self.batch_size) else triplets

    def _read_jnd(self) -> None:
        if self.jnd is not None:
            data = JNDDataModule(self.jnd, size=self.size, shorter_side=self.shorter_side)
            data.setup("validate")
            self.jnd_set, self.jnd_subsets = data.val_set, data.subsets
