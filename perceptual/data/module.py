"""DataModule of judged items: a subclass says how its tables are read."""

from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pytorch_lightning as pl

from perceptual.data.batch import Batch, JudgedDataset
from perceptual.data.kinds import TWO_AFC, Kind
from perceptual.data.loading import Batches, loader, val_loaders
from perceptual.data.readers.folders import read_pairs
from perceptual.data.settings import Training
from perceptual.data.table import Table

Side = Literal["train", "val"]


class JudgedDataModule(Training, pl.LightningDataModule):
    """Judged items to train on and to validate on, or to validate on alone; a subclass reads them.

    After `setup`, `val_sets` are what is validated: the items of the module's own kind, then those of other
    kinds that are scored beside them. Each one's `table.subsets` names what `Batch.subset` counts.

    Where images recur so often that a batch would hold each at least twice, on average, it holds each once.

    Args:
        size: side S of the square patches; None: images keep their sizes, and a batch holds those of one
            size.
        batch_size: items per batch.
        num_workers: processes that read images; None: 0 where the images are in memory or in a store, else up
            to 4. A program that has some needs `if __name__ == "__main__":` except where Python forks.
        weight_by_votes: weight the training loss by the number of votes (mean 1 over the set).
        seed: of the order of the training items.
        jnd: JND pairs to score in validation, as the root of `JNDDataModule`; None: no pairs.
        shorter_side: without `size`, pixels to resize the shorter side of each image to, keeping its shape.
        resize: `bilinear`, as in the paper, or `bicubic`, of files that are resized as they are read.
        crop: side of squares to train on, cropped at random, at the same place of the images of an item.

    Raises:
        ValueError: an argument is out of range.
    """

    kind: ClassVar[Kind] = TWO_AFC
    trains: ClassVar[bool] = True
    place: Any = None  # where the items are read from

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        pl.LightningDataModule.__init__(self)
        super().__post_init__()
        self.train_set: JudgedDataset | None = None
        self.val_sets: list[JudgedDataset] = []

    def read(self, side: Side) -> Table:
        """Read the items of one side."""
        raise NotImplementedError

    def beside(self) -> list[Table]:
        """Read items of other kinds that are scored in validation."""
        return [] if self.jnd is None else [read_pairs(self.jnd)]

    def source(self) -> str:
        """Say where the items come from, for `describe`."""
        return str(self.place)

    def how(self) -> str:
        """Say how the two sides are separated, for `describe`."""
        return ""

    @property
    def val_set(self) -> JudgedDataset:
        """Validation items of this module's own kind; call `setup` first."""
        if not self.val_sets:
            raise RuntimeError("call setup() first: no items have been read")
        return self.val_sets[0]

    @property
    def masked(self) -> bool:
        """Whether any items have masks; call `setup` first."""
        sets = [*self.val_sets, *([self.train_set] if self.train_set else [])]
        return any(judged.table.mask is not None for judged in sets)

    def setup(self, stage: str | None = None) -> None:
        """Read and check the items of a stage: all for "fit" or None, else those for validation."""
        if not self.val_sets:
            val = self.read("val")
            val = val.with_subsets([val.subsets[i] for i in np.unique(val.subset)])
            tables = [val, *self.beside()]
            self.val_sets = [
                JudgedDataset(table.open(self.size, self.shorter_side, self.resize)) for table in tables
            ]
        if self.trains and self.train_set is None and stage in (None, "fit"):
            train = self.read("train").with_subsets(self.val_set.table.subsets)
            opened = train.open(self.size, self.shorter_side, self.resize)
            self.train_set = JudgedDataset(opened, self.weight_by_votes, self.crop)

    def train_dataloader(self) -> Batches[Batch]:
        """Training batches, in a new order each epoch."""
        if self.train_set is None:
            raise RuntimeError("call setup('fit') before train_dataloader()")
        train_set = self.train_set.sharing(self.batch_size)
        return loader(train_set, self.batch_size, self.num_workers, self.seed, shuffle=True)

    def val_dataloader(self) -> Batches[Batch] | list[Batches[Any]]:
        """Validation batches of all subsets, in a fixed order; a list, where several kinds are validated."""
        sets = [self.val_set.sharing(self.batch_size), *self.val_sets[1:]]
        return val_loaders(sets, self.batch_size, self.num_workers)

    def describe(self) -> str:
        """Say in one line how many items there are and how they are split; call `setup` first."""
        train = f"{len(self.train_set):,} training and " if self.train_set is not None else ""
        count = f"{train}{len(self.val_set):,} {'validation ' if self.trains else ''}{self.kind.plural}"
        beside = "".join(
            f"; {len(other):,} {other.table.kind.name.upper()} {other.table.kind.plural}"
            for other in self.val_sets[1:]
        )
        return f"{self.source()}: {count}{self.how()}{beside}"

    @cached_property
    def sides(self) -> dict[str, dict[str, Any]]:
        """Fingerprint and number of the items of both sides, which a checkpoint holds; call `setup` first."""
        return {
            side: {"sha256": dataset.table.fingerprint(), "items": len(dataset)}
            for side, dataset in (("train", self.train_set), ("val", self.val_set))
            if dataset is not None
        }

    def fingerprint(self, side: Side = "val") -> str:
        """SHA-256, in hex, of the items of one side, see `Table.fingerprint`; call `setup` first.

        Two data sets with the same fingerprint give the same scores. Images in memory are hashed when this is
        called, at about 1 GB/s; the hashes of others are on record.
        """
        dataset = self.val_set if side == "val" else self.train_set
        if dataset is None:
            raise RuntimeError(f"call setup('fit') before fingerprint({side!r})")
        return dataset.table.fingerprint()
