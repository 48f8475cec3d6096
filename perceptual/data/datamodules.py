"""DataModules of 2AFC triplets: BAPPS folders, a manifest, and the packaged photographs."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from perceptual.data.layouts import read_folder, read_manifest, subset_names
from perceptual.data.photos import TRAIN_PHOTOS, VAL_PHOTOS, make_triplets, read_photos
from perceptual.data.shuffle import EpochShuffle
from perceptual.data.splits import split_by_image, split_by_triplet
from perceptual.data.triplets import TripletBatch, TripletDataset, TripletTable

BAPPS_TRAIN = ("train/traditional", "train/cnn", "train/mix")
BAPPS_VAL = ("val/traditional", "val/cnn", "val/superres", "val/deblur", "val/color", "val/frameinterp")
SPLIT_BY = {"image": split_by_image, "triplet": split_by_triplet}


class TwoAFCDataModule(pl.LightningDataModule):
    """Triplets for training and validation; a subclass says where they come from.

    After `setup`, `subsets` names the validation subsets that `TripletBatch.subset` counts.

    Args:
        size: side S of the square patches.
        batch_size: triplets a batch.
        num_workers: processes that read images; None: none where the images sit in memory, else up to four.
        weight_by_votes: weight the training loss by the number of votes (mean 1 over the set).
        seed: order of the training triplets.

    Raises:
        ValueError: for an argument that is out of range.
    """

    subsets: list[str]

    def __init__(
        self,
        size: int = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _at_least("size", size, 8)
        _at_least("batch_size", batch_size, 1)
        _at_least("num_workers", 0 if num_workers is None else num_workers, 0)
        _at_least("seed", seed, 0)
        self.size = size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.weight_by_votes = weight_by_votes
        self.seed = seed
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
        """What separates training from validation triplets, for `describe`."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read and check what the stage needs: all for "fit" or None, else validation triplets."""
        if self.val_set is None:
            val = self.read_val()
            self.subsets = [val.subsets[i] for i in np.unique(val.subset)]
            self.val_set = TripletDataset(val.with_subsets(self.subsets), self.size)
        if self.train_set is None and stage in (None, "fit"):
            train = self.read_train().with_subsets(self.subsets)
            self.train_set = TripletDataset(train, self.size, self.weight_by_votes)

    def train_dataloader(self) -> DataLoader[TripletBatch]:
        """Training batches, shuffled anew each epoch."""
        if self.train_set is None:
            raise RuntimeError("call setup('fit') before train_dataloader()")
        return self._loader(self.train_set, EpochShuffle(self.train_set, self.seed))

    def val_dataloader(self) -> DataLoader[TripletBatch]:
        """Validation batches of all subsets, in a fixed order."""
        if self.val_set is None:
            raise RuntimeError("call setup() before val_dataloader()")
        return self._loader(self.val_set, None)

    def describe(self) -> str:
        """One line: how many triplets there are and what separates the two sides; call `setup` first."""
        if self.val_set is None:
            raise RuntimeError("call setup() before describe()")
        train = f"{len(self.train_set):,} training and " if self.train_set is not None else ""
        return f"{self.source()}: {train}{len(self.val_set):,} validation triplets, {self.how_split()}"

    def _loader(self, dataset: TripletDataset, sampler: EpochShuffle | None) -> DataLoader[TripletBatch]:
        workers = self.num_workers
        if workers is None:
            workers = 0 if dataset.in_memory else min(4, os.cpu_count() or 1)
        return DataLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_whole_batch,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            # of its own, or each epoch would draw from the generator that dropout uses
            generator=torch.Generator().manual_seed(self.seed),
        )


class BAPPSDataModule(TwoAFCDataModule):
    """The BAPPS folder tree: `<root>/2afc/<subset>/{ref,p0,p1,judge}`.

    Args:
        root: folder that holds `2afc/`, or that folder itself.
        train_subsets: all of them are trained on, together.
        val_subsets: each is scored by itself, under the last part of its path.

    The other arguments are those of `TwoAFCDataModule`. `setup` raises FileNotFoundError or ValueError for
    folders that are absent or incomplete and for files that cannot be used.
    """

    def __init__(
        self,
        root: str,
        train_subsets: Sequence[str] = BAPPS_TRAIN,
        val_subsets: Sequence[str] = BAPPS_VAL,
        size: int = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(size, batch_size, num_workers, weight_by_votes, seed)
        subset_names(train_subsets)
        subset_names(val_subsets)
        self.root = Path(root)
        self.train_subsets = list(train_subsets)
        self.val_subsets = list(val_subsets)

    def read_train(self) -> TripletTable:
        """Triplets of the training subsets."""
        return read_folder(self._folder(), self.train_subsets)

    def read_val(self) -> TripletTable:
        """Triplets of the validation subsets."""
        return read_folder(self._folder(), self.val_subsets)

    def source(self) -> str:
        """The root."""
        return str(self.root)

    def how_split(self) -> str:
        """Which folders."""
        return f"split by folder ({', '.join(self.train_subsets)}; {', '.join(self.val_subsets)})"

    def _folder(self) -> Path:
        return self.root / "2afc" if (self.root / "2afc").is_dir() else self.root


class ManifestDataModule(TwoAFCDataModule):
    """Triplets listed in a CSV, see `read_manifest`.

    Its own `split` column is followed where there is one ("test" rows are left out); otherwise part of it is
    held out for validation.

    Args:
        path: the CSV.
        split_by: "image": no image on both sides, rows that straddle are left out; "triplet": rows at random.
        val_fraction: share of the images, or of the triplets, to hold out, in (0, 1).
        split_seed: chooses them, apart from `seed`, so that runs with different seeds are scored alike.

    The other arguments are those of `TwoAFCDataModule`. `setup` raises FileNotFoundError or ValueError for a
    manifest with errors and for files that cannot be used.
    """

    def __init__(
        self,
        path: str,
        split_by: str = "image",
        val_fraction: float = 0.3,
        split_seed: int = 0,
        size: int = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(size, batch_size, num_workers, weight_by_votes, seed)
        if split_by not in SPLIT_BY:
            raise ValueError(f"split_by must be one of {', '.join(SPLIT_BY)}, got {split_by!r}")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must be in (0, 1), got {val_fraction}")
        _at_least("split_seed", split_seed, 0)
        self.path = Path(path)
        self.split_by = split_by
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @cached_property
    def _read(self) -> tuple[TripletTable, TripletTable, str]:
        """Training rows, validation rows and how they were split; opened once, as they may share images."""
        table = read_manifest(self.path)
        if table.split is not None:
            train, val = table.split == "train", table.split == "val"
            if not (train.any() and val.any()):
                raise ValueError(f"{self.path}: the split column needs rows of train and of val")
        else:
            train, val = SPLIT_BY[self.split_by](table, self.val_fraction, self.split_seed)
        how = self._say(table, len(table) - train.sum() - val.sum())
        table = table.open(self.size)
        return table.take(train), table.take(val), how

    def _say(self, table: TripletTable, left_out: int) -> str:
        if table.split is not None:
            return f"split by the manifest's own column ({left_out:,} test rows left out)"
        if self.split_by == "image":
            return f"split by image (no image on both sides; {left_out:,} straddling rows left out)"
        return "split by triplet (images are on both sides)"

    def read_train(self) -> TripletTable:
        """Training rows."""
        return self._read[0]

    def read_val(self) -> TripletTable:
        """Validation rows."""
        return self._read[1]

    def source(self) -> str:
        """The manifest's path."""
        return str(self.path)

    def how_split(self) -> str:
        """By image, by triplet or by its own column, and how many rows were left out."""
        return self._read[2]


class PhotosDataModule(TwoAFCDataModule):
    """Triplets made of scikit-image's photographs and judged by a simulated observer, see `make_triplets`.

    Training and validation triplets come from different photographs. They do not depend on `seed`, which only
    orders them.

    Args:
        count_train: training triplets to make.
        count_val: validation triplets to make.

    The other arguments are those of `TwoAFCDataModule`.
    """

    def __init__(
        self,
        count_train: int = 4000,
        count_val: int = 1000,
        size: int = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(size, batch_size, num_workers, weight_by_votes, seed)
        _at_least("count_train", count_train, 1)
        _at_least("count_val", count_val, 1)
        self.count_train = count_train
        self.count_val = count_val

    def read_train(self) -> TripletTable:
        """Triplets of the training photographs."""
        return make_triplets(read_photos(TRAIN_PHOTOS), self.count_train, seed=0, size=self.size)

    def read_val(self) -> TripletTable:
        """Triplets of the held-out photographs."""
        return make_triplets(read_photos(VAL_PHOTOS), self.count_val, seed=1, size=self.size)

    def source(self) -> str:
        """Whose judgments these are."""
        return "photographs of scikit-image, judged by a simulated observer, not people"

    def how_split(self) -> str:
        """By photograph."""
        return "split by photograph"


def _whole_batch(batch: Any) -> Any:
    return batch  # `__getitems__` delivers whole batches, there is nothing to collate


def _at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest}, got {value}")
